//! Others than ours: rclone and s3fs, mounts of the bucket, with the flags that their manuals advise; and
//! curl.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Result;

use crate::env::{Mount, Server};
use crate::s3::{BUCKET, S3};

/// Whether files will be copied in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// Who does a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    Containerfs,
    Curl,
    Rclone,
    S3fs,
}

impl Tool {
    pub(crate) const ALL: [Self; 4] = [Self::Containerfs, Self::Curl, Self::Rclone, Self::S3fs];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Containerfs => "containerfs",
            Self::Curl => "curl",
            Self::Rclone => "rclone mount",
            Self::S3fs => "s3fs",
        }
    }

    /// Its name and version, as it tells them; nothing if it is not installed.
    pub(crate) fn version(self) -> Option<String> {
        let (program, argument) = match self {
            Self::Containerfs => (env!("CARGO_BIN_EXE_containerfs"), "--version"),
            Self::Curl => ("curl", "--version"),
            Self::Rclone => ("rclone", "version"),
            Self::S3fs => ("s3fs", "--version"),
        };
        let output = Command::new(program).arg(argument).stderr(Stdio::null()).output().ok()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let version = said.lines().next()?.split(" (").next()?;
        Some(version.replace("Amazon Simple Storage Service File System", "s3fs"))
    }

    /// Mounts with an empty cache; the second is where the files are. curl needs none.
    pub(crate) fn mount(
        self,
        server: &Server,
        s3: &S3,
        access: Access,
        flags: &[&str],
    ) -> Result<Option<(Mount, PathBuf)>> {
        let mut command = match self {
            Self::Curl => return Ok(None),
            Self::Containerfs => {
                let mount = server.mount(flags)?;
                let files = mount.c();
                return Ok(Some((mount, files)));
            }
            Self::Rclone => rclone(server, s3, access),
            Self::S3fs => s3fs(server, s3, access)?,
        };
        let dir = server.path(if self == Self::Rclone { "rclone" } else { "s3fs" });
        fs::create_dir_all(server.path("cache-of-others"))?;
        fs::create_dir_all(&dir)?;
        command.arg(&dir);
        let mount = server.mounted(&mut command, dir.clone())?;
        // s3fs looks at its bucket first, and answers when it has.
        fs::metadata(&dir)?;
        Ok(Some((mount, dir)))
    }
}

/// The bucket is on this machine: no proxy lies before it, and no setting for another cloud is about it.
fn foreign(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let told = name.to_string_lossy();
        if told.starts_with("AWS") || told.starts_with("RCLONE") || told.to_lowercase().ends_with("_proxy") {
            command.env_remove(name);
        }
    }
    command
}

/// With the cache that its manual advises for programs, and the times of S3, without which each file costs a
/// HEAD. Uploads run behind; it is told to begin them at once.
fn rclone(server: &Server, s3: &S3, access: Access) -> Command {
    let mut command = foreign("rclone");
    command
        .env("RCLONE_CONFIG", server.path("rclone.conf"))
        .env("RCLONE_CONFIG_S3_TYPE", "s3")
        .env("RCLONE_CONFIG_S3_PROVIDER", "Other")
        .env("RCLONE_CONFIG_S3_ENDPOINT", s3.url())
        .env("RCLONE_CONFIG_S3_ACCESS_KEY_ID", "bench")
        .env("RCLONE_CONFIG_S3_SECRET_ACCESS_KEY", "bench")
        .args(["mount", "--use-server-modtime", "--vfs-cache-mode", "full", "--cache-dir"])
        .arg(server.path("cache-of-others"))
        .args(match access {
            Access::Read => &["--read-only"][..],
            Access::Write => &["--vfs-write-back", "0s"],
        })
        .arg(format!("s3:{BUCKET}"));
    command
}

/// With its cache.
fn s3fs(server: &Server, s3: &S3, access: Access) -> Result<Command> {
    let secret = server.path("s3fs.secret");
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&secret)?;
    std::io::Write::write_all(&mut file, b"bench:bench\n")?;
    let mut command = foreign("s3fs");
    command
        .args(["-f", "-o", if access == Access::Read { "ro" } else { "rw" }])
        .args(["-o", "use_path_request_style", "-o"])
        .arg(format!("url={}", s3.url()))
        .arg("-o")
        .arg(format!("passwd_file={}", secret.display()))
        .arg("-o")
        .arg(format!("use_cache={}", server.path("cache-of-others").display()))
        .arg(BUCKET);
    Ok(command)
}
