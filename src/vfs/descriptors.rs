//! Who else holds a file open: read from `/proc`, which asks nothing of the filesystem.

use std::fs;

/// The process that a thread belongs to; the thread itself if it is gone.
pub(super) fn process_of(thread: u32) -> u32 {
    fs::read_to_string(format!("/proc/{thread}/status"))
        .ok()
        .and_then(|status| field(&status, "Tgid:").and_then(|tgid| u32::try_from(tgid).ok()))
        .unwrap_or(thread)
}

/// Whether `process` has a descriptor of the inode `ino` of the mount `mount`.
pub(super) fn holds(process: u32, mount: u64, ino: u64) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{process}/fdinfo")) else { return false };
    descriptors.flatten().any(|descriptor| {
        fs::read_to_string(descriptor.path())
            .is_ok_and(|info| field(&info, "mnt_id:") == Some(mount) && field(&info, "ino:") == Some(ino))
    })
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn our_own_descriptors_are_seen() {
        let file = tempfile::tempfile().unwrap();
        let ino = file.metadata().unwrap().ino();
        let info = {
            use std::os::fd::AsRawFd;
            fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).unwrap()
        };
        let mount = field(&info, "mnt_id:").unwrap();
        assert!(holds(std::process::id(), mount, ino));
        drop(file);
        assert!(!holds(std::process::id(), mount, ino));
    }

    #[test]
    fn a_thread_belongs_to_its_process() {
        let thread = std::thread::spawn(|| process_of(nix::unistd::gettid().as_raw().cast_unsigned()));
        assert_eq!(thread.join().unwrap(), std::process::id());
    }
}
