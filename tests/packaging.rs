//! The package holds what it says, without being built.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn metadata() -> toml::Table {
    let manifest: toml::Table = fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    manifest["package"]["metadata"]["deb"].as_table().unwrap().clone()
}

fn assets() -> Vec<(String, String)> {
    let text = |value: &toml::Value| value.as_str().unwrap().to_owned();
    let assets = metadata()["assets"].as_array().unwrap().clone();
    assets.iter().map(|asset| (text(&asset[0]), text(&asset[1]))).collect()
}

#[test]
fn every_asset_is_in_the_tree_or_made_by_the_script() {
    let script = fs::read_to_string(root().join("packaging/deb.sh")).unwrap();
    assert!(assets().len() > 8);
    for (source, _) in assets() {
        if source == "target/release/containerfs" {
            assert!(script.contains("cargo build --release"));
        } else if let Some(made) = source.strip_prefix("target/assets/") {
            let made = made.trim_end_matches("/*.1");
            assert!(script.contains(&format!("$assets/{made}\"")), "packaging/deb.sh does not make {source}");
        } else if let Some(directory) = source.strip_suffix("/*.md") {
            assert!(fs::read_dir(root().join(directory)).unwrap().count() > 3, "{source}");
        } else {
            assert!(root().join(&source).is_file(), "{source} is not in the tree");
        }
    }
}

#[test]
fn the_package_brings_what_a_mount_needs() {
    let places: Vec<String> = assets().into_iter().map(|(_, place)| place).collect();
    for place in ["usr/bin/", "usr/share/man/man1/", "usr/lib/systemd/system/", "usr/lib/systemd/user/"] {
        assert!(places.iter().any(|given| given.starts_with(place)), "{place}");
    }
    for shell in ["bash-completion/completions/containerfs", "_containerfs", "containerfs.fish"] {
        assert!(places.iter().any(|given| given.ends_with(shell)), "{shell}");
    }
    let deb = metadata();
    assert!(deb["depends"].as_str().unwrap().contains("fuse3"));
    for file in deb["conf-files"].as_array().unwrap() {
        assert!(places.contains(&file.as_str().unwrap().trim_start_matches('/').to_owned()), "{file}");
    }
    assert!(fs::read_to_string(root().join("packaging/config.toml")).unwrap().parse::<toml::Table>().is_ok());
}
