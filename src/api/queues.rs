//! What the kernel holds of that which was handed over to it to be sent.
//!
//! The buffer of a socket takes megabytes at once and lets go of them as fast as the way to the server is: an
//! upload of which nothing is handed over any more may well move. The libraries above the socket don't tell;
//! the kernel's table of connections does, for TLS and HTTP/2 as well.

use std::collections::{HashMap, HashSet};
use std::fs;

/// Unsent or unacknowledged bytes of each of our connections, by the inode of its socket.
pub(super) type Queues = HashMap<u64, u64>;

/// What the libraries above a socket hold of one upload, at most: HTTP/1.1 half a megabyte and a chunk,
/// HTTP/2 one megabyte, TLS a few records.
const HELD: u64 = 3 << 19;

/// The queues of this process's connections to any of `ports`; empty where the kernel doesn't tell.
pub(super) fn queues(ports: &[u16]) -> Queues {
    let Ok(descriptors) = fs::read_dir("/proc/self/fd") else { return Queues::new() };
    let links = descriptors.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    let ours: HashSet<u64> = links
        .filter_map(|link| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok())
        .collect();
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"]
        .map(|table| fs::read_to_string(table).unwrap_or_default());
    let rows = tables.iter().flat_map(|table| table.lines());
    rows.filter_map(row)
        .filter(|row| ports.contains(&row.port) && ours.contains(&row.inode))
        .map(|row| (row.inode, row.queue))
        .collect()
}

struct Row {
    port: u16,
    queue: u64,
    inode: u64,
}

/// A line of `/proc/net/tcp` (proc(5)).
fn row(line: &str) -> Option<Row> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let port = u16::from_str_radix(fields.get(2)?.rsplit_once(':')?.1, 16).ok()?;
    let queue = u64::from_str_radix(fields.get(4)?.split_once(':')?.0, 16).ok()?;
    Some(Row { port, queue, inode: fields.get(9)?.parse().ok()? })
}

/// What has left since nothing was handed over any more.
///
/// Which connection is the upload's nobody tells. So whatever leaves counts, but of each connection no more
/// than can be this upload's: one that is stuck is not kept by others that move.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    sockets: HashMap<u64, Socket>,
    /// Of that which was in the queues when they were first seen.
    held: u64,
}

#[derive(Debug)]
struct Socket {
    queue: u64,
    /// Bytes that may yet leave it and count.
    credit: u64,
}

impl Leaving {
    /// Bytes that have left from one look to the next, with so many transfers `under_way`.
    pub(super) fn looked(&mut self, queues: &Queues, under_way: usize) -> u64 {
        // Several share one connection over HTTP/2, and each holds as much.
        let sharing = under_way.div_ceil(queues.len().max(1)).max(1) as u64;
        let mut left = 0;
        for (inode, queue) in queues {
            let socket = self.sockets.entry(*inode).or_insert_with(|| {
                self.held += queue;
                Socket { queue: *queue, credit: queue + HELD * sharing }
            });
            let gone = socket.queue.saturating_sub(*queue).min(socket.credit);
            socket.credit -= gone;
            socket.queue = *queue;
            left += gone;
        }
        self.held = self.held.saturating_sub(left);
        left
    }

    /// How much of what was there at the first look is there yet, at most.
    pub(super) fn held(&self) -> u64 {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_kernel_tells_what_a_socket_holds() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut sender = TcpStream::connect(address).unwrap();
        let (mut receiver, _) = listener.accept().unwrap();
        sender.set_nonblocking(true).unwrap();
        while sender.write(&[7; 4096]).is_ok() {}
        let held = |ports: &[u16]| queues(ports).into_values().sum::<u64>();
        let before = held(&[address.port()]);
        assert!(before > 0);
        assert_eq!(held(&[]), 0);
        let mut buffer = vec![0; 1 << 20];
        while held(&[address.port()]) == before {
            assert!(receiver.read(&mut buffer).unwrap() > 0);
        }
        assert!(held(&[address.port()]) < before);
    }

    #[test]
    fn what_leaves_counts_and_what_comes_does_not() {
        let mut leaving = Leaving::default();
        let mut look = |queue| leaving.looked(&Queues::from([(1, queue)]), 1);
        assert_eq!([look(1000), look(900), look(900), look(950), look(0)], [0, 100, 0, 0, 950]);
    }

    #[test]
    fn of_each_connection_no_more_counts_than_can_be_the_uploads() {
        let mut leaving = Leaving::default();
        let mut busy = 0;
        for look in 0..100 {
            // One is always filled again, the other one creeps.
            let queues = Queues::from([(1, if look % 2 == 0 { 1 << 20 } else { 0 }), (2, 100_000 - look)]);
            busy += leaving.looked(&queues, 2);
        }
        assert_eq!(busy, (1 << 20) + HELD + 99);
        let mut shared = Leaving::default();
        shared.looked(&Queues::from([(1, 0)]), 4);
        shared.looked(&Queues::from([(1, HELD * 5)]), 4);
        assert_eq!(shared.looked(&Queues::from([(1, 0)]), 4), HELD * 4);
    }
}
