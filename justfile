# The habits. `just` lists them.

default:
    @just --list

# Format, lints, dependencies, documentation.
check:
    cargo fmt --all --check
    cargo clippy --all-targets -- -D warnings
    cargo deny check
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

# Every test, on real mounts.
test:
    cargo test

# An hour of what `just test` does for seconds: many processes in one directory, fsx amid faults, kills, random operations, hostile input.
soak:
    CONTAINERFS_HAMMER=420 cargo test --test mount hammer -- --nocapture
    CONTAINERFS_FSX=100000 CONTAINERFS_FSX_FAULTS=20000 cargo test --test mount fsx
    CONTAINERFS_KILLS=100 cargo test --test mount kills
    CONTAINERFS_MODEL_CASES=300 cargo test --test model
    CONTAINERFS_FUZZ=240 cargo test --test fuzz -- --nocapture

# Kills amid random operations, as many for each kind of server, which loses answers and whose lists lag.
chaos KILLS='20':
    CONTAINERFS_CHAOS={{KILLS}} cargo test --test mount chaos -- --nocapture

# Hostile input for ten minutes each: lists, names, state and cache directories, the control socket, the configuration file; by name, `just fuzz journal::`.
fuzz *NAMES:
    CONTAINERFS_FUZZ=600 cargo test --test fuzz -- --nocapture --test-threads 1 {{NAMES}}

# Sample containers on ~/containers.
demo:
    cargo run --release -- mount --demo ~/containers

# Records docs/demo.svg anew: real commands on a terminal of their own.
record:
    cargo build --release
    docs/demo.py target/release/containerfs

# Real mounts next to other ways to the same bytes; rows by name, `just bench cp-50 ls`, `just bench beside --latency 500`.
bench *ARGS:
    cargo bench --bench real -- {{ARGS}}

# What calls of the kernel, names and lists cost the daemon itself; by name, `just hot read`.
hot *ARGS:
    cargo bench --bench hot -- {{ARGS}}

# The Debian package, below target/debian.
deb:
    packaging/deb.sh

# Installs the package here, tries mount(8), fstab, units, manual and completions, and removes it. Needs root.
test-deb:
    packaging/test-deb.sh
