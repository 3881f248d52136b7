//! `containerfs mount`: checks everything that can be checked on the caller's terminal, then starts the
//! daemon.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::sys::stat::{Mode, umask};

use crate::api::ClientConfig;
use crate::cli::args::{Common, LogFormat, Mount};
use crate::cli::exit_codes::ExitCode;
use crate::cli::{directories, key, machine, output, server, status};
use crate::daemon::background::{Role, detach};
use crate::daemon::{Settings, logging, run};
use crate::fuse::{Options, mounts};
use crate::private;
use crate::vfs;

/// What a demo says where it has no place.
const NO_TEMPORARY: &str = "cannot make a temporary directory";

/// How often it is looked whether an earlier mount has ended.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(100);

/// Mounts. Returns when the mount answers, or with `--foreground` when it has ended.
///
/// # Errors
/// A sentence that says what to do.
pub(super) fn mount(args: &Mount, common: &Common) -> Result<ExitCode> {
    let Some(mountpoint) = &args.mountpoint else { return list_mounts() };
    let mountpoint = usable(mountpoint, args.demo)?;
    check_machine(args.allow_other)?;
    let mut settings = resolve(args, common, mountpoint)?;
    // A demo has directories of its own.
    if !settings.demo {
        directories::check_outside(&settings.vfs.state_dir, "--state-dir", &settings.mountpoint)?;
        directories::check_outside(&settings.vfs.cache_dir, "--cache-dir", &settings.mountpoint)?;
    }
    let json = common.log_format == LogFormat::Json;
    logging::tell_bugs();
    if args.foreground {
        let _temporary = settings.keep_nothing().context(NO_TEMPORARY)?;
        logging::start(&common.log_level, json, None).context("cannot log")?;
        return finish(run::run(settings, None));
    }
    match detach().context("cannot go to the background")? {
        Role::Parent(waiter) => match waiter.wait() {
            Ok(()) => Ok(ExitCode::Success),
            Err(message) => bail!(message),
        },
        Role::Child(reporter) => {
            let _temporary = match settings.keep_nothing() {
                Ok(temporary) => temporary,
                Err(error) => {
                    reporter.failed(&format!("{NO_TEMPORARY}: {error}"));
                    return Ok(ExitCode::Failed);
                }
            };
            let state_dir = settings.vfs.state_dir.clone();
            let started = private::base(&state_dir).and_then(|()| {
                logging::start(&common.log_level, json, Some(&state_dir.join("containerfs.log")))
            });
            if let Err(error) = started {
                let state_dir = state_dir.display();
                reporter.failed(&format!("cannot use {state_dir} ({error}): name another with --state-dir"));
                return Ok(ExitCode::Failed);
            }
            // The parent prints what goes wrong.
            match run::run(settings, Some(reporter)) {
                Ok(left) if left.is_empty() => Ok(ExitCode::Success),
                Ok(_) => Ok(ExitCode::Pending),
                Err(_) => Ok(ExitCode::Failed),
            }
        }
    }
}

fn finish(outcome: Result<Vec<vfs::Left>, String>) -> Result<ExitCode> {
    let left = outcome.map_err(anyhow::Error::msg)?;
    if left.is_empty() {
        return Ok(ExitCode::Success);
    }
    output::tell_left(&left);
    Ok(ExitCode::Pending)
}

fn list_mounts() -> Result<ExitCode> {
    for entry in mounts::all()?.iter().filter(|entry| entry.is_ours()) {
        if let Some(dead) = status::dead(entry) {
            eprintln!("containerfs: {}", output::escaped(&dead));
            continue;
        }
        let shown = format!("{} on {}", entry.source, entry.mountpoint.display());
        output::line(&output::escaped(&shown))?;
    }
    Ok(ExitCode::Success)
}

/// The canonical mountpoint: an empty directory on which nothing of ours is mounted.
fn usable(mountpoint: &Path, make: bool) -> Result<PathBuf> {
    let shown = mountpoint.display();
    // Before anything that would be a call to a mount that is there.
    if let Ok(at) = mounts::absolute(mountpoint) {
        if mounts::clear_stale(&at)
            .with_context(|| format!("{shown} is a dead mount that cannot be cleared"))?
        {
            eprintln!("containerfs: cleared the dead mount that was left at {shown}");
        }
        wait_for_end(&at)?;
        if mounts::topmost_at(&at)?.is_some_and(|entry| entry.is_ours()) {
            bail!("{shown} is a containerfs mount already: `containerfs unmount {shown}` ends it");
        }
    }
    match fs::metadata(mountpoint) {
        Ok(found) if !found.is_dir() => bail!("{shown} is not a directory: mount on an empty directory"),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound && make => {
            fs::create_dir_all(mountpoint).with_context(|| format!("cannot make {shown}"))?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("the mountpoint {shown} does not exist: `mkdir -p {shown}` makes it")
        }
        Err(error) => return Err(error).with_context(|| format!("cannot use the mountpoint {shown}")),
    }
    let canonical =
        mountpoint.canonicalize().with_context(|| format!("cannot use the mountpoint {shown}"))?;
    if let Some(around) = mounts::around(&canonical)? {
        bail!("{shown} lies in the containerfs mount {}: mount elsewhere", around.display());
    }
    let mut entries = fs::read_dir(&canonical).with_context(|| format!("cannot read {shown}"))?;
    if entries.next().is_some() {
        bail!("the mountpoint {shown} is not empty: mount on an empty directory");
    }
    if nix::unistd::access(&canonical, nix::unistd::AccessFlags::W_OK).is_err() {
        bail!("{shown} is not yours to write to: mount on a directory of your own");
    }
    Ok(canonical)
}

/// A mount here that is ending already is waited for.
fn wait_for_end(mountpoint: &Path) -> io::Result<()> {
    let mut told = false;
    while let Some(entry) = mounts::topmost_at(mountpoint)?.filter(mounts::Entry::is_ours)
        && status::is_ending(&entry)
    {
        if !told {
            eprintln!(
                "containerfs: the mount at {} is still uploading; waiting for it",
                mountpoint.display()
            );
        }
        told = true;
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

fn check_machine(allow_other: bool) -> Result<()> {
    let told = machine::device().and_then(|()| {
        if !nix::unistd::geteuid().is_root() {
            machine::fusermount()?;
        }
        if allow_other { machine::allow_other() } else { Ok(()) }
    });
    told.map_err(anyhow::Error::msg)
}

fn resolve(args: &Mount, common: &Common, mountpoint: PathBuf) -> Result<Settings> {
    let api_key = if args.demo { None } else { Some(key::resolve(common)?) };
    let client = ClientConfig {
        timeout: args.timeout,
        max_connections: args.max_connections.into(),
        max_requests_per_minute: args.max_requests_per_minute,
        insecure_http: common.insecure_http,
        ..server::config(common, api_key)
    };
    let source =
        args.source.clone().or_else(|| args.container.clone()).unwrap_or_else(|| "containerfs".to_owned());
    let vfs = vfs::Config {
        ttl: args.ttl,
        content_ttl: args.content_ttl,
        timeout: args.timeout,
        write_back: args.write_back.then_some(args.write_back_delay),
        uid: args.uid.unwrap_or_else(|| nix::unistd::geteuid().as_raw()),
        gid: args.gid.unwrap_or_else(|| nix::unistd::getegid().as_raw()),
        makers_own: args.uid.is_none() && args.gid.is_none(),
        umask: args.umask.unwrap_or_else(present_umask),
        read_only: args.read_only,
        no_delete: args.no_delete,
        no_overwrite: args.no_overwrite,
        container: args.container.clone(),
        cache_dir: directories::cache(&args.cache_dir)?,
        cache_size: args.cache_size.as_u64(),
        memory_cache: args.memory_cache.as_u64(),
        state_dir: directories::state(&args.state_dir)?,
        prefetch: !args.no_prefetch,
        keep_alive: args.keep_alive,
        scratch: args.scratch.clone(),
        max_connections: args.max_connections.into(),
        new_container: vfs::NewContainer {
            memory_limit: args.memory_limit.clone(),
            expires_after_minutes: args.expires_after.map(minutes).transpose()?,
            network_policy: args.network_policy.clone(),
        },
    };
    let fuse = Options { allow_other: args.allow_other, read_only: args.read_only, source };
    Ok(Settings {
        mountpoint,
        demo: args.demo,
        client,
        vfs,
        fuse,
        metrics: args.metrics_listen,
        drain_timeout: args.drain_timeout,
    })
}

fn minutes(life: std::time::Duration) -> Result<i64> {
    Ok(i64::try_from(life.as_secs() / 60)?)
}

fn present_umask() -> u32 {
    let mask = umask(Mode::empty());
    umask(mask);
    mask.bits()
}
