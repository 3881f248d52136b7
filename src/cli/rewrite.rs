//! What was typed, into what is meant: the fstab form, `-o` options and the configuration file all become
//! flags.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Arg, CommandFactory};

use crate::cli::args::Cli;

/// Options of mount(8) itself, which reach us and mean nothing here; so do those that begin with `x-` or `X-`.
const OF_MOUNT: &str = "defaults rw auto noauto nofail _netdev _rnetdev \
    user nouser users nousers owner noowner group nogroup comment uhelper \
    dev nodev suid nosuid exec noexec symfollow nosymfollow \
    sync async dirsync mand nomand iversion noiversion silent loud \
    atime noatime diratime nodiratime relatime norelatime strictatime nostrictatime lazytime nolazytime";

/// The command that prints what is no JSON: how replies are printed is nothing to it.
const PRINTS_CONTENT: &str = "containers:files:content";

/// Flags that say where the flags come from.
const OF_THE_FILE: [&str; 2] = ["config", "config-profile"];

/// Flags that give the same thing in two ways: what the better place says in one of them beats the other too.
const OF_THE_KEY: [&str; 2] = ["api-key", "api-key-file"];

/// Turns `containerfs SOURCE MOUNTPOINT -o …` into `containerfs mount …`, and every `-o` into flags.
///
/// # Errors
/// An option lacks its value.
pub(super) fn command_line(typed: Vec<OsString>) -> Result<Vec<OsString>> {
    let command = Cli::command();
    let mut args = typed.into_iter();
    let program = args.next().unwrap_or_else(|| "containerfs".into());
    let rest = as_mount(&command, args.collect());
    let mut meant = vec![program];
    let mut rest = rest.into_iter();
    let is_mount = |meant: &[OsString]| meant.iter().skip(1).any(|arg| arg == "mount");
    while let Some(arg) = rest.next() {
        let text = arg.to_string_lossy();
        let options = match text.strip_prefix("-o").filter(|_| is_mount(&meant)) {
            None => {
                meant.push(arg);
                continue;
            }
            Some("") => rest.next().context("-o needs options: -o a,b=c")?,
            Some(options) => options.trim_start_matches('=').into(),
        };
        meant.extend(flags_of(&command, &options.to_string_lossy())?);
    }
    Ok(meant)
}

/// The fstab form has a source where a command would be, and a mountpoint after it.
fn as_mount(command: &clap::Command, args: Vec<OsString>) -> Vec<OsString> {
    let mut places = Vec::new();
    let mut at = 0;
    while let Some(arg) = args.get(at) {
        let text = arg.to_string_lossy();
        let takes_value =
            text == "-o" || (text.starts_with("--") && !text.contains('=') && wants_value(command, &text));
        if !text.starts_with('-') || text == "-" {
            places.push(at);
        }
        at += 1 + usize::from(takes_value);
    }
    let [source, mountpoint, ..] = places[..] else { return args };
    let has_options = args.iter().any(|arg| arg.to_string_lossy().starts_with("-o"));
    if args[source] == "help" {
        return args;
    }
    if let Some(known) = command.find_subcommand(&args[source]) {
        // No command but `mount` has such options: with them, and a mountpoint alone, it is a container's name.
        let is_source = known.get_name() != "mount"
            && has_options
            && places.len() == 2
            && known.find_subcommand(&args[mountpoint]).is_none();
        if !is_source {
            return args;
        }
    }
    if !has_options && is_slip(command, &args[source]) {
        return args;
    }
    let mut meant: Vec<OsString> = vec!["mount".into()];
    let name = args[source].to_string_lossy().into_owned();
    if !matches!(name.as_str(), "containerfs" | "none" | "all") {
        meant.extend(["--container".into(), args[source].clone()]);
    }
    meant.extend(["--source".into(), args[source].clone(), args[mountpoint].clone()]);
    let others = args.into_iter().enumerate().filter(|(at, _)| *at != source && *at != mountpoint);
    // What mount(8) passes on: no mtab, sloppy, verbose.
    meant.extend(others.map(|(_, arg)| arg).filter(|arg| !["-n", "-s", "-v"].iter().any(|flag| arg == flag)));
    meant
}

/// Whether a word is more likely a command with a slip in it than the name of a container.
fn is_slip(command: &clap::Command, word: &OsStr) -> bool {
    use clap::error::ContextKind;
    let refused = command.clone().try_get_matches_from([OsStr::new("containerfs"), word]);
    refused.is_err_and(|error| error.get(ContextKind::SuggestedSubcommand).is_some())
}

fn wants_value(command: &clap::Command, flag: &str) -> bool {
    find(command, flag.trim_start_matches('-')).is_some_and(|arg| arg.get_action().takes_values())
}

fn find<'a>(command: &'a clap::Command, long: &str) -> Option<&'a Arg> {
    let of = |command: &'a clap::Command| command.get_arguments().find(|arg| arg.get_long() == Some(long));
    of(command).or_else(|| command.get_subcommands().find_map(|sub| find(sub, long)))
}

/// The options of one `-o`. A comma that belongs to a value has a backslash before it, or lies in brackets or
/// braces, as those of JSON and globs do.
fn options_of(text: &str) -> Vec<String> {
    let mut options = vec![String::new()];
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let len = if rest.starts_with("\\,") { 2 } else { enclosed(rest).unwrap_or(c.len_utf8()) };
        if c == ',' {
            options.push(String::new());
        } else if let Some(option) = options.last_mut() {
            option.push_str(&rest[..len].replace("\\,", ","));
        }
        rest = &rest[len..];
    }
    options.retain(|option| !option.is_empty());
    options
}

/// The length of what an opening bracket or brace and its partner enclose, both included.
fn enclosed(text: &str) -> Option<usize> {
    let mut open = Vec::new();
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' if !open.is_empty() => quoted = !quoted,
            _ if quoted => {}
            b'{' => open.push(b'}'),
            b'[' => open.push(b']'),
            b'}' | b']' if open.last() == Some(&byte) => _ = open.pop(),
            _ => {}
        }
        if open.is_empty() {
            return (at > 0).then_some(at + 1);
        }
    }
    None
}

fn flags_of(command: &clap::Command, options: &str) -> Result<Vec<OsString>> {
    let mut flags = Vec::new();
    for option in options_of(options) {
        let (name, value) =
            option.split_once('=').map_or((&*option, None), |(name, value)| (name, Some(value)));
        if name == "remount" {
            bail!("-o remount: a mount cannot be changed while it stands: unmount it, and mount it anew");
        }
        if OF_MOUNT.split(' ').any(|known| known == name) || name.to_ascii_lowercase().starts_with("x-") {
            continue;
        }
        let long = if name == "ro" { "read-only".to_owned() } else { name.replace('_', "-") };
        if value.is_none() && wants_value(command, &long) {
            bail!("-o {name} needs a value: -o {name}=VALUE");
        }
        flags.push(match value {
            Some(value) => format!("--{long}={value}").into(),
            None => format!("--{long}").into(),
        });
    }
    Ok(flags)
}

/// Puts the flags of the configuration file in where those that were typed beat them; a flag whose environment
/// variable is set stays out. `meant` has been through [`command_line`].
///
/// # Errors
/// The file cannot be read or is not TOML, has an unknown flag, or lacks the profile.
pub(super) fn with_config_file(meant: Vec<OsString>) -> Result<Vec<OsString>> {
    let named = value_of(&meant, "--config").or_else(|| from_env("CONTAINERFS_CONFIG"));
    let profile = value_of(&meant, "--config-profile").or_else(|| from_env("CONTAINERFS_CONFIG_PROFILE"));
    let file = match (&named, default_file()) {
        (Some(named), _) => PathBuf::from(named),
        (None, Some(default)) if default.exists() => default,
        _ if profile.is_some() => bail!("--config-profile needs a configuration file: name it with --config"),
        _ => return Ok(meant),
    };
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let table: toml::Table = text.parse().with_context(|| format!("{} is not TOML", file.display()))?;
    let profile = profile.map(|name| name.to_string_lossy().into_owned());
    let mut flags = file_flags(&table, profile.as_deref()).with_context(|| file.display().to_string())?;
    if OF_THE_KEY.iter().any(|long| value_of(&meant, &format!("--{long}")).is_some()) {
        flags.retain(|(long, _)| !is_of_the_key(long));
    }
    Ok(insert(meant, flags))
}

/// Of two values of a flag clap takes the last one, but of a global flag the one behind the later word of the
/// command: what every command shares stands before all words, and a command's own right behind its word.
fn insert(mut meant: Vec<OsString>, flags: Vec<(String, OsString)>) -> Vec<OsString> {
    let root = Cli::command();
    let (mut command, mut at) = (&root, 0);
    let mut prints_content = false;
    let mut next = 1;
    // Down to the command that is called, past the flags before each word and their values.
    while let Some(arg) = meant.get(next) {
        let text = arg.to_string_lossy();
        let takes_value = text.starts_with("--") && !text.contains('=') && wants_value(&root, &text);
        if !text.starts_with('-') {
            let Some(sub) = command.get_subcommands().find(|sub| sub.get_name() == text) else { break };
            (command, at) = (sub, next);
            prints_content |= text == PRINTS_CONTENT;
        }
        next += 1 + usize::from(takes_value);
    }
    if at == 0 {
        return meant;
    }
    let of =
        |command: &clap::Command, long: &str| command.get_arguments().any(|arg| arg.get_long() == Some(long));
    let (mut shared, mut own) = (Vec::new(), Vec::new());
    for (long, flag) in flags {
        if of(&root, &long) {
            shared.push(flag);
        } else if of(command, &long) && !(prints_content && long == "format") {
            own.push(flag);
        }
    }
    meant.splice(at + 1..at + 1, own);
    meant.splice(1..1, shared);
    meant
}

/// The flags of a file, the profile's after the general ones so that they win.
fn file_flags(table: &toml::Table, profile: Option<&str>) -> Result<Vec<(String, OsString)>> {
    let profiles = table.get("profile").and_then(toml::Value::as_table);
    let chosen = match profile {
        None => None,
        Some(name) => {
            let found = profiles.and_then(|profiles| profiles.get(name)?.as_table());
            Some(found.with_context(|| format!("there is no [profile.{name}]"))?)
        }
    };
    let key_in_profile =
        chosen.is_some_and(|chosen: &toml::Table| OF_THE_KEY.iter().any(|long| chosen.contains_key(*long)));
    let general = table.iter().filter(|(name, _)| *name != "profile");
    let general = general.filter(|(name, _)| !(key_in_profile && is_of_the_key(name)));
    let command = Cli::command();
    let mut flags = Vec::new();
    for (name, value) in general.chain(chosen.into_iter().flatten()) {
        let Some(arg) = find(&command, name) else {
            bail!("there is no flag --{name}{}", nearest(&command, name));
        };
        if OF_THE_FILE.contains(&name.as_str()) {
            bail!("--{name} names a file, and cannot stand in one");
        }
        let is_set = |arg: &Arg| arg.get_env().and_then(from_env).is_some();
        let key_is_set = || OF_THE_KEY.iter().filter_map(|long| find(&command, long)).any(is_set);
        if is_set(arg) || (is_of_the_key(name) && key_is_set()) {
            continue;
        }
        flags.extend(flag(name, value)?.into_iter().map(|flag| (name.clone(), flag)));
    }
    Ok(flags)
}

fn is_of_the_key(long: &str) -> bool {
    OF_THE_KEY.contains(&long)
}

fn flag(name: &str, value: &toml::Value) -> Result<Vec<OsString>> {
    Ok(match value {
        toml::Value::Boolean(true) => vec![format!("--{name}").into()],
        toml::Value::Boolean(false) => Vec::new(),
        toml::Value::String(text) => vec![format!("--{name}={text}").into()],
        toml::Value::Integer(number) => vec![format!("--{name}={number}").into()],
        toml::Value::Float(number) => vec![format!("--{name}={number}").into()],
        toml::Value::Table(table) => vec![format!("--{name}={}", serde_json::to_string(table)?).into()],
        toml::Value::Array(values) => {
            let flags: Result<Vec<_>> = values.iter().map(|value| flag(name, value)).collect();
            flags?.into_iter().flatten().collect()
        }
        toml::Value::Datetime(_) => bail!("--{name} is not a date"),
    })
}

fn nearest(command: &clap::Command, name: &str) -> String {
    let mut longs = BTreeSet::new();
    collect_longs(command, &mut longs);
    let wanted = name.replace('_', "-");
    let alike =
        longs.iter().find(|long| **long == wanted || long.starts_with(&wanted) || wanted.starts_with(**long));
    alike.map(|long| format!("; --{long} is meant?")).unwrap_or_default()
}

fn collect_longs<'a>(command: &'a clap::Command, longs: &mut BTreeSet<&'a str>) {
    longs.extend(command.get_arguments().filter_map(Arg::get_long));
    for sub in command.get_subcommands() {
        collect_longs(sub, longs);
    }
}

fn value_of(args: &[OsString], flag: &str) -> Option<OsString> {
    let with_equals = format!("{flag}=");
    args.iter().enumerate().find_map(|(at, arg)| {
        if arg == flag {
            args.get(at + 1).cloned()
        } else {
            arg.to_str()?.strip_prefix(&with_equals).map(OsString::from)
        }
    })
}

fn from_env(name: impl AsRef<OsStr>) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn default_file() -> Option<PathBuf> {
    use etcetera::BaseStrategy;
    Some(etcetera::choose_base_strategy().ok()?.config_dir().join("containerfs/config.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(typed: &str) -> String {
        let args = command_line(typed.split(' ').map(OsString::from).collect()).unwrap();
        args.iter().map(|arg| arg.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_fstab_form_means_mount() {
        assert_eq!(
            meant("containerfs containerfs /mnt -o rw,dev,suid,_netdev,ttl=1s,allow_other"),
            "containerfs mount --source containerfs /mnt --ttl=1s --allow-other"
        );
        assert_eq!(
            meant("containerfs -o ro,x-systemd.automount report /mnt -n"),
            "containerfs mount --container report --source report /mnt --read-only"
        );
        assert_eq!(
            meant("containerfs --base-url http://a report /mnt").split(' ').next_back(),
            Some("http://a")
        );
    }

    #[test]
    fn commands_stay_what_they_are() {
        for typed in
            ["containerfs unmount /mnt", "containerfs status", "containerfs help mount", "containerfs --help"]
        {
            assert_eq!(meant(typed), typed);
        }
        for slip in ["containerfs containers:file list", "containerfs unmout /mnt"] {
            assert_eq!(meant(slip), slip);
        }
        assert!(meant("containerfs unmout /mnt -o ro").starts_with("containerfs mount --container unmout"));
        assert_eq!(
            meant("containerfs mount -o uid=5,nonsense /mnt"),
            "containerfs mount --uid=5 --nonsense /mnt"
        );
    }

    #[test]
    fn a_container_that_is_named_like_a_command_is_mounted_with_options() {
        assert_eq!(
            meant("containerfs status /mnt -o ro"),
            "containerfs mount --container status --source status /mnt --read-only"
        );
        assert!(
            meant("containerfs containers:files:content /mnt -n -o rw").contains("--container containers")
        );
        for command in [
            "containerfs containers:files:content retrieve a b -o out",
            "containerfs containers:files:content retrieve -o out",
            "containerfs status /mnt",
        ] {
            assert_eq!(meant(command), command);
        }
        assert_eq!(meant("containerfs mount /mnt -o ro"), "containerfs mount /mnt --read-only");
    }

    #[test]
    fn a_comma_may_belong_to_a_value() {
        let policy = r#"{"type":"allowlist","allowed_domains":["a,\"b]","c"]}"#;
        assert_eq!(
            options_of(&format!("ro,network_policy={policy},ttl=1s")),
            ["ro", &format!("network_policy={policy}"), "ttl=1s"]
        );
        assert_eq!(
            options_of(r#"network_policy={"a":1\,"b":2},ro"#),
            [r#"network_policy={"a":1,"b":2}"#, "ro"]
        );
        assert_eq!(options_of(r"container=a\,b,,ro"), ["container=a,b", "ro"]);
        assert_eq!(
            options_of("scratch=*.{a,b},scratch=[x,y],uid=5"),
            ["scratch=*.{a,b}", "scratch=[x,y]", "uid=5"]
        );
        assert_eq!(options_of("container=a{b,ro"), ["container=a{b", "ro"]);
    }

    #[test]
    fn an_option_without_its_value_takes_nothing_else_for_it() {
        for (typed, wanted) in [
            ("containerfs mount -o state-dir /mnt", "-o state-dir needs a value"),
            ("containerfs report /mnt -o ro,cache_size", "-o cache_size needs a value"),
            ("containerfs mount /mnt -o", "-o needs options"),
        ] {
            let refused =
                command_line(typed.split(' ').map(OsString::from).collect()).unwrap_err().to_string();
            assert!(refused.starts_with(wanted), "{refused}");
        }
    }

    #[test]
    fn a_profile_beats_the_general_part_and_a_typed_flag_beats_both() {
        let table: toml::Table =
            "ttl = '9s'\nread-only = true\n[profile.work]\nttl = '2s'\nmax-connections = 4".parse().unwrap();
        let flags = file_flags(&table, Some("work")).unwrap();
        let args =
            insert(vec!["containerfs".into(), "mount".into(), "/mnt".into(), "--ttl=1s".into()], flags);
        let args: Vec<&str> = args.iter().map(|arg| arg.to_str().unwrap()).collect();
        let expected = "containerfs mount --read-only --ttl=9s --max-connections=4 --ttl=2s /mnt --ttl=1s";
        assert_eq!(args.join(" "), expected);
        use clap::Parser;
        let crate::cli::args::Command::Mount(mount) = Cli::try_parse_from(args).unwrap().command else {
            panic!()
        };
        assert_eq!(mount.ttl.as_secs(), 1);
        assert!(mount.read_only);
    }

    #[test]
    fn a_key_of_a_profile_beats_the_general_one_whichever_way_each_is_given() {
        let longs = |text: &str, profile| {
            let flags = file_flags(&text.parse().unwrap(), profile).unwrap();
            flags.into_iter().map(|(long, _)| long).collect::<Vec<_>>()
        };
        let text = "api-key-file = '/key'\n[profile.work]\napi-key = 'sk-work'\n[profile.other]\nttl = '1s'";
        assert_eq!(longs(text, Some("work")), ["api-key"]);
        assert_eq!(longs(text, Some("other")), ["api-key-file", "ttl"]);
        assert_eq!(longs("api-key = 'sk'\n[profile.a]\napi-key-file = '/key'", Some("a")), ["api-key-file"]);
    }

    #[test]
    fn flags_of_commands_in_groups_reach_them_and_no_other() {
        let table: toml::Table = "limit = 5\nstate-dir = '/s'\nlog-level = 'debug'".parse().unwrap();
        let with_file = |typed: &str| {
            let args =
                insert(typed.split(' ').map(OsString::from).collect(), file_flags(&table, None).unwrap());
            args.iter().map(|arg| arg.to_str().unwrap()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            with_file("containerfs --config-profile mount containers list --order asc"),
            "containerfs --log-level=debug --config-profile mount containers list --limit=5 --order asc"
        );
        assert_eq!(
            with_file("containerfs pending save list"),
            "containerfs --log-level=debug pending save --state-dir=/s list"
        );
        assert_eq!(with_file("containerfs --help"), "containerfs --help");
        let table: toml::Table = "format = 'json'\nstate-dir = '/s'".parse().unwrap();
        let with_file = |typed: &str| {
            insert(typed.split(' ').map(OsString::from).collect(), file_flags(&table, None).unwrap()).len()
        };
        assert_eq!(with_file("containerfs containers list"), 4);
        assert_eq!(with_file("containerfs containers:files:content retrieve"), 3);
    }

    #[test]
    fn an_unknown_flag_in_the_file_is_named_with_its_nearest() {
        let table: toml::Table = "read_only = true".parse().unwrap();
        let error = file_flags(&table, None).unwrap_err().to_string();
        assert_eq!(error, "there is no flag --read_only; --read-only is meant?");
        assert!(file_flags(&"ttl = '1s'".parse().unwrap(), Some("home")).is_err());
        assert!(file_flags(&"config = 'other.toml'".parse().unwrap(), None).is_err());
    }
}
