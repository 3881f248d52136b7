//! Calls of the kernel that memory or the local disk answers.

use std::ffi::OsStr;
use std::hint::black_box;

use containerfs::namespace::inode::ROOT;
use containerfs::vfs::DirEntry;
use criterion::{Criterion, Throughput};

use crate::world::{FILES, LARGE, SMALL, World};

pub(crate) fn all(criterion: &mut Criterion) {
    let world = World::new();
    lookup(criterion, &world);
    getattr(criterion, &world);
    readdirplus(criterion, &world);
    read(criterion, &world);
}

fn lookup(criterion: &mut Criterion, world: &World) {
    let mut group = criterion.benchmark_group("lookup");
    let mut names = world.names.iter().cycle();
    group.bench_function("one of 10,000 names", |bench| {
        bench.iter(|| world.vfs.lookup_now(ROOT, names.next().unwrap()).unwrap().unwrap());
    });
    group.bench_function("a name that is not there", |bench| {
        let absent = OsStr::new("report-absent.csv");
        bench.iter(|| world.vfs.lookup_now(ROOT, black_box(absent)).unwrap().unwrap());
    });
    group.finish();
}

fn getattr(criterion: &mut Criterion, world: &World) {
    let inodes: Vec<_> = world.names.iter().map(|name| world.find(name)).collect();
    let mut inodes = inodes.iter().cycle();
    criterion.bench_function("getattr/one of 10,000 files", |bench| {
        bench.iter(|| world.vfs.getattr_now(*inodes.next().unwrap()).unwrap().unwrap());
    });
}

/// From opendir to releasedir, in as many calls as the kernel makes of it: some thirty entries fill a page of
/// its.
fn readdirplus(criterion: &mut Criterion, world: &World) {
    const ENTRIES_OF_A_CALL: usize = 30;
    let _entered = world.runtime.enter();
    let mut group = criterion.benchmark_group("readdirplus");
    group.throughput(Throughput::Elements(FILES as u64));
    group.bench_function("10,000 entries", |bench| {
        bench.iter(|| {
            let (handle, _) = world.vfs.opendir(ROOT).unwrap();
            let (mut next, mut seen) = (0, 0);
            loop {
                let (offset, mut taken) = (next, 0);
                let mut take = |entry: &DirEntry| {
                    if taken == ENTRIES_OF_A_CALL {
                        return false;
                    }
                    taken += 1;
                    next = entry.next;
                    black_box(entry);
                    true
                };
                world.vfs.readdir_now(handle, offset, true, &mut take).unwrap().unwrap();
                if taken == 0 {
                    break;
                }
                seen += taken;
            }
            world.vfs.releasedir(handle);
            assert_eq!(seen, FILES + 3, "with the large file and both dots");
        });
    });
    group.finish();
}

fn read(criterion: &mut Criterion, world: &World) {
    let mut group = criterion.benchmark_group("read");
    let small = world.opened("report-00000.csv", SMALL);
    group.throughput(Throughput::Bytes(SMALL as u64));
    group.bench_function("4 KiB from memory", |bench| {
        bench.iter(|| world.vfs.read_now(small, 0, SMALL).unwrap().unwrap());
    });
    let ino = world.find("report-00000.csv");
    group.bench_function("4 KiB with its open and release", |bench| {
        bench.iter(|| {
            let opened = world.vfs.open_file(ino, libc::O_RDONLY, 0).unwrap();
            let bytes = world.runtime.block_on(world.vfs.read(opened.handle, 0, SMALL)).unwrap();
            world.vfs.release(opened.handle);
            bytes
        });
    });
    let large = world.opened("large", LARGE);
    for (told, size) in [("4 KiB from disk", 4 << 10), ("128 KiB from disk", 128 << 10)] {
        let mut offsets = (0..LARGE).step_by(size).cycle();
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(told, |bench| {
            bench.iter(|| {
                let offset = offsets.next().unwrap() as u64;
                world.vfs.read_now(large, offset, size).unwrap().unwrap()
            });
        });
    }
    group.finish();
    world.vfs.release(small);
    world.vfs.release(large);
}
