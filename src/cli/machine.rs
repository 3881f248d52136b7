//! What a mount needs of the machine, each need with what to do where it is not met.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// The bit of `CAP_SYS_ADMIN`; see capabilities(7).
const SYS_ADMIN: u64 = 1 << 21;

/// The kernel's side of FUSE can be opened.
///
/// # Errors
/// A sentence that says what to do.
pub(super) fn device() -> Result<(), String> {
    match OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err("there is no /dev/fuse: load the module (`modprobe fuse`), or start a Docker container with \
             `--device /dev/fuse --cap-add SYS_ADMIN`"
                .to_owned())
        }
        Err(error) => Err(format!(
            "cannot open /dev/fuse ({error}): `sudo chmod 666 /dev/fuse`, as distributions have it, or run as root"
        )),
    }
}

/// Whether this process may mount without help.
pub(super) fn may_mount() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = capabilities.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    capabilities.is_some_and(|capabilities| capabilities & SYS_ADMIN != 0)
}

/// Where `fusermount3` is, which mounts for everyone else.
///
/// # Errors
/// A sentence that says what to do.
pub(super) fn fusermount() -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("fusermount3")).find(|file| file.exists());
    found.ok_or_else(|| {
        "fusermount3 is missing, which mounts for users other than root: `apt install fuse3`".to_owned()
    })
}

/// Other users may be let in.
///
/// # Errors
/// A sentence that says what to do.
pub(super) fn allow_other() -> Result<(), String> {
    let allowed = fs::read_to_string(Path::new("/etc/fuse.conf"))
        .is_ok_and(|conf| conf.lines().any(|line| line.trim() == "user_allow_other"));
    if nix::unistd::geteuid().is_root() || allowed {
        return Ok(());
    }
    Err("--allow-other needs the line `user_allow_other` in /etc/fuse.conf".to_owned())
}
