//! Configuration files: one that means something gives flags to the command that was typed, and nothing else.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use clap::error::ErrorKind;
use containerfs::cli::args::{Cli, Command};
use containerfs::cli::{Refused, parse};
use proptest::prelude::*;

use crate::engine::fuzz;

fn case(input: &[u8], file: &Path) {
    std::fs::write(file, input).unwrap();
    for profile in [None, Some("work")] {
        let with_file = |typed: &str| parsed(typed, file, profile);
        if let Some(cli) = with_file("mount --ttl 7s --read-only /mnt/typed") {
            let Command::Mount(mount) = cli.command else { panic!("{:?}", cli.command) };
            assert_eq!(mount.mountpoint.as_deref(), Some(Path::new("/mnt/typed")));
            assert!(mount.ttl == Duration::from_secs(7) && mount.read_only, "what was typed counts");
            assert_eq!(cli.common.config.as_deref(), Some(file), "no file names another");
        }
        if let Some(cli) = with_file("mount /mnt/typed") {
            let Command::Mount(mount) = cli.command else { panic!("{:?}", cli.command) };
            for time in
                [mount.ttl, mount.content_ttl, mount.timeout, mount.drain_timeout, mount.write_back_delay]
            {
                let _ = std::time::Instant::now() + time;
            }
        }
        if let Some(cli) = with_file("pending discard 1/2") {
            assert!(matches!(cli.command, Command::Pending(_)));
        }
        if let Some(cli) = with_file("containers list --limit 5") {
            assert!(matches!(cli.command, Command::Containers(_)));
        }
    }
}

fn parsed(typed: &str, file: &Path, profile: Option<&str>) -> Option<Cli> {
    let mut args: Vec<OsString> = vec!["containerfs".into(), "--config".into(), file.into()];
    args.extend(profile.into_iter().flat_map(|name| ["--config-profile".into(), name.into()]));
    args.extend(typed.split(' ').map(OsString::from));
    match parse(args) {
        Ok((cli, _)) => Some(cli),
        Err(Refused::Words(error)) => {
            assert!(!format!("{error:#}").is_empty());
            None
        }
        Err(Refused::Flags(error)) => {
            let asks_for_help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            assert!(!asks_for_help, "a file asks for help");
            let _ = error.render().to_string();
            None
        }
    }
}

fn file() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        12 => prop::sample::select(vec![
            "ttl", "read-only", "state-dir", "cache-size", "max-connections", "scratch", "umask", "network-policy",
            "expires-after", "timeout", "write-back", "write-back-delay", "drain-timeout", "log-level", "limit",
            "metrics-listen", "api-key", "base-url", "demo", "foreground", "format",
        ]),
        2 => prop::sample::select(vec![
            "config", "config-profile", "help", "version", "mountpoint", "read_only", "o", "source", "profile", "\"\"",
            "\"-\"", "\"--ttl\"", "\"ttl=1s\"", "\"a b\"", "\"\\u0000\"", "profile.work", "profile.work.ttl",
        ]),
    ];
    let value = prop_oneof![
        8 => prop::sample::select(vec![
            "true", "false", "5", "'5s'", "'1GiB'", "['*.o', '*.tmp']", "'/var/x'", "{ type = 'disabled' }", "[]", "''",
        ]),
        3 => prop::sample::select(vec![
            "-1", "1e300", "nan", "inf", "9223372036854775807", "1979-05-27T07:32:00Z", "[[[1]]]", "[true, 'x', 5]",
            "'1e300'", "'18446744073709551615s'", "'999999999999y'", "'-1s'", "'99999999999999TiB'", "{}", "{ a.b.c = {} }",
            "\"\\u0000\"", "\"\\u001b[2J\"", "\"--demo\"", "'a=b,c=d'", "'0o777777777777'", "'xn--'", "'[::]:99999'",
        ]),
    ];
    let line = || (name.clone(), value.clone()).prop_map(|(name, value)| format!("{name} = {value}\n"));
    (prop::collection::vec(line(), 0..5), prop::option::of(prop::collection::vec(line(), 0..3))).prop_map(
        |(general, profile)| {
            let profile = profile.map(|lines| format!("[profile.work]\n{}", lines.concat()));
            (general.concat() + &profile.unwrap_or_default()).into_bytes()
        },
    )
}

#[test]
fn a_configuration_file_gives_flags_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    fuzz("config", file().boxed(), |input| case(input, &path));
}
