//! Who else holds a file open: read from `/proc`, which asks nothing of the filesystem.

use std::fs;

/// Descendants that are asked; with more, one of them is taken to hold the file.
const DESCENDANTS: usize = 256;

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

/// Whether a process that `process` has started, or one that such a one has, holds the inode: it may have
/// inherited the descriptor.
pub(super) fn descendants_hold(process: u32, mount: u64, ino: u64) -> bool {
    let mut left = DESCENDANTS;
    let mut parents = vec![process];
    while let Some(parent) = parents.pop() {
        for child in children(parent) {
            if left == 0 || holds(child, mount, ino) {
                return true;
            }
            left -= 1;
            parents.push(child);
        }
    }
    false
}

fn children(process: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
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
    fn a_child_that_inherited_a_descriptor_is_seen() {
        let file = tempfile::tempfile().unwrap();
        let ino = file.metadata().unwrap().ino();
        let mount = {
            use std::os::fd::AsRawFd;
            let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).unwrap();
            field(&info, "mnt_id:").unwrap()
        };
        assert!(!descendants_hold(std::process::id(), mount, ino));
        let mut sleeper = std::process::Command::new("sleep").arg("60").stdin(file).spawn().unwrap();
        assert!(descendants_hold(std::process::id(), mount, ino));
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        assert!(!descendants_hold(std::process::id(), mount, ino));
    }

    #[test]
    fn a_thread_belongs_to_its_process() {
        let thread = std::thread::spawn(|| process_of(nix::unistd::gettid().as_raw().cast_unsigned()));
        assert_eq!(thread.join().unwrap(), std::process::id());
    }
}
