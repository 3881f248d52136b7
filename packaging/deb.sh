#!/usr/bin/env bash
# Builds the Debian package: the binary, then what it prints about itself, then cargo-deb. Prints the package's path.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v cargo-deb >/dev/null || cargo install --locked --quiet cargo-deb
cargo build --release >&2
# cargo-deb looks for these in Cargo.toml's words.
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
built="$target/release/containerfs"
assets="$target/assets"
rm -rf "$assets"
mkdir -p "$assets"
"$built" man --output "$assets/man"
"$built" completions bash >"$assets/containerfs.bash"
"$built" completions zsh >"$assets/_containerfs"
"$built" completions fish >"$assets/containerfs.fish"
if [ "$target" != "$PWD/target" ]; then
    echo "cargo-deb wants its assets below ./target: unset CARGO_TARGET_DIR" >&2
    exit 1
fi
cargo deb --no-build --strip --quiet
