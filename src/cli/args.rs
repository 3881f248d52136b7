//! Every command and flag, defined once: help, completions and man page come out of this file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand, ValueEnum};
use secrecy::SecretString;

use crate::api::NetworkPolicy;

mod operations;
mod values;

pub use operations::{
    ContainerRef, Containers, Content, FileRef, Files, Format, FormatKind, OneContainer, OneFile, Order,
    Paging,
};

use values::{duration, glob, interval, known_policy, life, log_filter, octal, quirk, server};

/// Mount OpenAI containers as ordinary directories.
#[derive(Debug, Parser)]
#[command(name = "containerfs", version, about, max_term_width = 100, args_override_self = true)]
#[command(
    after_help = "Also: `containerfs SOURCE MOUNTPOINT -o OPTIONS`, as mount(8) and /etc/fstab call it; SOURCE is \
                        a container's name or id, or `containerfs` for all of them."
)]
pub struct Cli {
    /// What everything shares.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Server and logging")]
pub struct Common {
    /// API key. Shows in `ps`: better the environment or --api-key-file.
    #[arg(long, global = true, env = "OPENAI_API_KEY", hide_env_values = true, value_name = "KEY")]
    pub api_key: Option<SecretString>,
    /// File that holds the API key.
    #[arg(long, global = true, env = "OPENAI_API_KEY_FILE", value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Server, up to and including /v1.
    #[arg(
        long,
        global = true,
        env = "OPENAI_BASE_URL",
        value_name = "URL",
        value_parser = server,
        help = "Server, up to and including /v1 [default: https://api.openai.com/v1]"
    )]
    pub base_url: Option<String>,
    /// Organization to bill.
    #[arg(long, global = true, env = "OPENAI_ORG_ID", value_name = "ID")]
    pub organization: Option<String>,
    /// Project to bill.
    #[arg(long, global = true, env = "OPENAI_PROJECT_ID", value_name = "ID")]
    pub project: Option<String>,
    /// Allow http:// to other machines: the key travels in the clear.
    #[arg(long, global = true, env = "CONTAINERFS_INSECURE_HTTP", value_parser = clap::builder::FalseyValueParser::new())]
    pub insecure_http: bool,
    /// How much to log: error, warn, info, debug or trace, or a filter such as containerfs::api=debug.
    #[arg(
        long,
        global = true,
        env = "CONTAINERFS_LOG_LEVEL",
        default_value = "warn",
        value_name = "LEVEL",
        value_parser = log_filter
    )]
    pub log_level: String,
    /// How to log.
    #[arg(
        long,
        global = true,
        env = "CONTAINERFS_LOG_FORMAT",
        default_value = "text",
        value_name = "FORMAT"
    )]
    pub log_format: LogFormat,
    /// TOML file of flags by their long names [default: ~/.config/containerfs/config.toml, if there].
    #[arg(long, global = true, env = "CONTAINERFS_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Table `[profile.NAME]` of that file whose flags come first.
    #[arg(long, global = true, env = "CONTAINERFS_CONFIG_PROFILE", value_name = "NAME")]
    pub config_profile: Option<String>,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mount the containers on a directory; without one, list what is mounted.
    Mount(Box<Mount>),
    /// Unmount, waiting for uploads.
    Unmount(Unmount),
    /// Show, save, send again or throw away bytes that are not on the server.
    #[command(subcommand)]
    Pending(Pending),
    /// Show mounts, their caches, requests and errors.
    Status(Status),
    /// Print where the model finds a file.
    Path(Path),
    /// Check this machine, the key, the server and the directories, and say what to do.
    Doctor(Doctor),
    /// List, make, show and delete containers.
    #[command(subcommand)]
    Containers(Containers),
    /// List, upload, show and delete the files of a container.
    #[command(subcommand, name = "containers:files")]
    Files(Files),
    /// Fetch the content of a file.
    #[command(subcommand, name = "containers:files:content")]
    Content(Content),
    /// Serve the Containers API from a local directory, for tests and for trying out.
    Emulator(Emulator),
    /// Print completions for a shell.
    Completions(Completions),
    /// Print the manual page.
    Man(Man),
}

/// `containerfs mount`.
#[derive(Clone, Debug, Args)]
pub struct Mount {
    /// An empty directory.
    pub mountpoint: Option<PathBuf>,
    /// Stay in the foreground.
    #[arg(long, short)]
    pub foreground: bool,
    /// Mount sample containers from a server inside the process: no key, no network, nothing kept.
    #[arg(long)]
    pub demo: bool,
    /// Mount this one container.
    #[arg(long, value_name = "NAME|ID")]
    pub container: Option<String>,
    /// Refuse every change.
    #[arg(long)]
    pub read_only: bool,
    /// Refuse to delete; an overwritten version stays beside the new one.
    #[arg(long)]
    pub no_delete: bool,
    /// Refuse to change files that exist.
    #[arg(long)]
    pub no_overwrite: bool,
    /// Let other users in.
    #[arg(long)]
    pub allow_other: bool,
    /// Owner of all files [default: you].
    #[arg(long, value_name = "UID")]
    pub uid: Option<u32>,
    /// Group of all files [default: yours].
    #[arg(long, value_name = "GID")]
    pub gid: Option<u32>,
    /// Permission bits to take away, in octal [default: yours].
    #[arg(long, value_name = "MASK", value_parser = octal)]
    pub umask: Option<u32>,
    /// How long a listing is trusted.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub ttl: Duration,
    /// How long the bytes and sizes of files that the model wrote are trusted.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub content_ttl: Duration,
    /// Where content is cached [default: ~/.cache/containerfs].
    #[arg(long, env = "CONTAINERFS_CACHE_DIR", value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Size of that cache.
    #[arg(long, value_name = "SIZE", default_value = "2GiB")]
    pub cache_size: ByteSize,
    /// Content kept in memory.
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    pub memory_cache: ByteSize,
    /// Where bytes wait that are not on the server yet [default: ~/.local/state/containerfs].
    #[arg(long, env = "CONTAINERFS_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Return from close and fsync once the bytes are safe on this disk, and upload behind.
    #[arg(long)]
    pub write_back: bool,
    /// With --write-back: how long after the last close an upload begins.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    pub write_back_delay: Duration,
    /// Further names of files that stay here and are never uploaded, as a glob; may be repeated.
    #[arg(long, value_name = "GLOB", value_parser = glob)]
    pub scratch: Vec<String>,
    /// How long an unmount waits for uploads.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub drain_timeout: Duration,
    /// Transfers at once.
    #[arg(long, value_name = "N", default_value = "32", value_parser = clap::value_parser!(u16).range(1..))]
    pub max_connections: u16,
    /// Limit of requests a minute.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_requests_per_minute: Option<u32>,
    /// Do not fetch files before they are read.
    #[arg(long)]
    pub no_prefetch: bool,
    /// Keep containers from expiring whose files were looked at here, by a request at half of their life:
    /// they are billed while they live.
    #[arg(long)]
    pub keep_alive: bool,
    /// Longest wait for an answer of the server.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub timeout: Duration,
    /// Memory of containers that mkdir makes.
    #[arg(long, value_name = "SIZE", value_parser = ["1g", "4g", "16g", "64g"])]
    pub memory_limit: Option<String>,
    /// Life of containers that mkdir makes, without use: 1m to 20m.
    #[arg(long, value_name = "TIME", value_parser = life)]
    pub expires_after: Option<Duration>,
    /// Network policy of containers that mkdir makes: `disabled`, or JSON as the API takes it.
    #[arg(long, value_name = "POLICY", value_parser = known_policy)]
    pub network_policy: Option<NetworkPolicy>,
    /// Serve metrics for Prometheus at http://ADDR/metrics; port 0 takes a free one, which `status` tells.
    #[arg(
        long,
        value_name = "ADDR",
        help = "Serve metrics for Prometheus at http://ADDR/metrics; port 0 takes a free one, which `status` tells"
    )]
    pub metrics_listen: Option<SocketAddr>,
    /// What `mount` shows as the source.
    #[arg(long, hide = true)]
    pub source: Option<String>,
    /// Options as mount(8) writes them: any flag above by its long name, ro, rw; those of mount itself are
    /// ignored.
    #[arg(short = 'o', value_name = "a,b=c")]
    pub options: Vec<String>,
}

/// `containerfs unmount`.
#[derive(Debug, Args)]
pub struct Unmount {
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// How long to wait for uploads [default: the mount's --drain-timeout].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Do not wait: what is not uploaded yet is kept for the next mount.
    #[arg(long)]
    pub force: bool,
}

/// `containerfs pending`.
#[derive(Debug, Subcommand)]
pub enum Pending {
    /// Show what is not on the server, and why.
    List {
        /// Where to look.
        #[command(flatten)]
        state: StateDir,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// Send again: at once where it is mounted, else by the next mount. Bytes that were never closed need
    /// their id.
    Retry {
        /// Where to look.
        #[command(flatten)]
        state: StateDir,
        /// Only these.
        ids: Vec<String>,
    },
    /// Copy the bytes into a directory.
    Save {
        /// Where to look.
        #[command(flatten)]
        state: StateDir,
        /// Where to; made if it is missing.
        directory: PathBuf,
        /// Only these.
        ids: Vec<String>,
    },
    /// Throw the bytes away.
    Discard {
        /// Where to look.
        #[command(flatten)]
        state: StateDir,
        /// Which.
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

/// Where unsent bytes are.
#[derive(Debug, Args)]
pub struct StateDir {
    /// The state directory of the mounts [default: ~/.local/state/containerfs].
    #[arg(long, env = "CONTAINERFS_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

/// `containerfs status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Only this mount.
    pub mountpoint: Option<PathBuf>,
    /// For programs.
    #[arg(long)]
    pub json: bool,
    /// Show it again and again; with --json one line each time.
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "2s", require_equals = true, value_parser = interval)]
    pub watch: Option<Duration>,
}

/// `containerfs path`.
#[derive(Debug, Args)]
#[command(
    after_help = "The service renames what is uploaded, so the path for a prompt is not the one in the directory; it is \
                  another one after each save. A directory means every file below it."
)]
pub struct Path {
    /// Files in a mount; with --shown the mounts or containers to look in [default: all mounts].
    #[arg(value_name = "FILE", required_unless_present = "shown")]
    pub files: Vec<PathBuf>,
    /// The other way: print where the file is shown that the model calls PATH; may be repeated.
    #[arg(long, value_name = "PATH")]
    pub shown: Vec<String>,
    /// For programs: both paths, ids and errors.
    #[arg(long)]
    pub json: bool,
}

/// `containerfs doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Where content is cached [default: ~/.cache/containerfs].
    #[arg(long, env = "CONTAINERFS_CACHE_DIR", value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Where bytes wait that are not on the server yet [default: ~/.local/state/containerfs].
    #[arg(long, env = "CONTAINERFS_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Longest wait for an answer of the server.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub timeout: Duration,
    /// For programs.
    #[arg(long)]
    pub json: bool,
}

/// `containerfs emulator`.
#[derive(Debug, Args)]
pub struct Emulator {
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Where data is kept [default: nowhere].
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The real service with its quirks, or a plain server.
    #[arg(long, default_value = "openai")]
    pub profile: Profile,
    /// Change one thing in which servers differ: upload-prefix=false, delete-list-lag=5s, long-ids; may be
    /// repeated.
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = quirk)]
    pub quirk: Vec<String>,
    /// Begin with the sample containers of `mount --demo`.
    #[arg(long)]
    pub demo: bool,
    /// Answer each request so much later.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub latency: Option<Duration>,
    /// Allow faults and latency to be set through /_admin.
    #[arg(long)]
    pub admin: bool,
}

/// How the emulator behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// Prefixed upload names, unknown sizes, no ranges, expired rows, 50 MB.
    Openai,
    /// None of these.
    Plain,
}

/// `containerfs completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// bash, elvish, fish, powershell or zsh.
    pub shell: clap_complete::Shell,
}

/// `containerfs man`.
#[derive(Debug, Args)]
pub struct Man {
    /// Write a page for each command into this directory; made if it is missing.
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn values_are_read_as_people_write_them() {
        let cli = Cli::try_parse_from([
            "containerfs",
            "mount",
            "/mnt",
            "--ttl",
            "500ms",
            "--timeout",
            "2",
            "--umask",
            "027",
            "--cache-size",
            "1MiB",
            "--network-policy",
            "disabled",
        ])
        .unwrap();
        let Command::Mount(mount) = cli.command else { panic!() };
        assert_eq!((mount.ttl, mount.timeout), (Duration::from_millis(500), Duration::from_secs(2)));
        assert_eq!((mount.umask, mount.cache_size), (Some(0o27), ByteSize::mib(1)));
        assert_eq!(mount.network_policy.unwrap().0["type"], "disabled");
        assert!(Cli::try_parse_from(["containerfs", "mount", "/mnt", "--umask", "9"]).is_err());
        for long in ["1.8e19", "18446744073709551615s", "500000000000y"] {
            let mount = duration(long).unwrap();
            assert!(std::time::Instant::now().checked_add(mount * 2).is_some(), "{long}");
        }
        for wrong in [
            ["--max-connections", "0"],
            ["--expires-after", "30s"],
            ["--expires-after", "90s"],
            ["--expires-after", "21m"],
            ["--memory-limit", "3g"],
            ["--network-policy", "{\"type\":\"x\"}"],
            ["--network-policy", "[]"],
            ["--scratch", "["],
            ["--base-url", "nonsense"],
            ["--base-url", "file:///v1"],
            ["--log-level", "loud"],
            ["--log-level", "a=b=c"],
        ] {
            let error =
                Cli::try_parse_from([&["containerfs", "mount", "/mnt"][..], &wrong].concat()).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(wrong[0]), "{error}");
        }
        for right in [
            ["--expires-after", "20m"],
            ["--expires-after", "60"],
            ["--memory-limit", "64g"],
            ["--network-policy", "{\"type\":\"allowlist\",\"allowed_domains\":[\"a.com\"]}"],
            ["--scratch", "*.{a,b}"],
            ["--base-url", "http://127.0.0.1:1/v1"],
            ["--base-url", ""],
            ["--log-level", "TRACE"],
            ["--log-level", "warn,containerfs::api=debug,hyper=info"],
            ["--log-level", "[lookup{name=a}]=debug"],
        ] {
            let parsed = Cli::try_parse_from([&["containerfs", "mount", "/mnt"][..], &right].concat());
            assert!(parsed.is_ok(), "{right:?}: {}", parsed.unwrap_err());
        }
    }
}
