//! The papers say what the code does: tests that they name exist, flags that exist are named.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The names of all test functions below a directory.
fn tests_below(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(path).unwrap();
            let after_attribute = text.split("#[test]").skip(1).chain(text.split("#[tokio::test").skip(1));
            for rest in after_attribute {
                let name = rest.split("fn ").nth(1).and_then(|rest| rest.split(['(', '<']).next());
                found.extend(name.map(str::to_owned));
            }
        }
    }
}

#[test]
fn every_test_that_the_semantics_name_exists() {
    let mut tests = BTreeSet::new();
    for directory in ["tests", "src"] {
        tests_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join(directory), &mut tests);
    }
    let text = read("docs/semantics.md");
    let named: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_suffix('|')?.rsplit('|').next())
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .filter(|word| {
            word.matches('_').count() >= 2
                && word.chars().all(|c| c == '_' || c.is_numeric() || c.is_lowercase())
        })
        .collect();
    assert!(named.len() > 40, "the table is not read as it is written: {named:?}");
    let absent: Vec<_> = named.iter().filter(|name| !tests.contains(**name)).collect();
    assert!(absent.is_empty(), "named and absent: {absent:?}");
}

#[test]
fn every_flag_of_mount_is_in_the_configuration_page_and_in_the_help() {
    let output = Command::new(env!("CARGO_BIN_EXE_containerfs")).args(["mount", "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let flags_of = |text: &str| -> BTreeSet<String> {
        text.split("--")
            .skip(1)
            .map(|rest| rest.split(|c: char| c != '-' && !c.is_ascii_alphanumeric()).next().unwrap())
            .filter(|flag| flag.len() > 1 && !flag.starts_with('-'))
            .map(str::to_owned)
            .collect()
    };
    let page = flags_of(&read("docs/configuration.md"));
    // Those that begin a line of the help are defined there; others are merely mentioned.
    let defined = help.lines().filter(|line| line.trim_start().starts_with('-')).map(flags_of);
    let defined: BTreeSet<String> = defined.flatten().filter(|flag| flag != "help").collect();
    assert!(defined.len() > 25, "the help is not read as it is written: {defined:?}");
    let untold: Vec<_> = defined.difference(&page).collect();
    assert!(untold.is_empty(), "flags without a line in docs/configuration.md: {untold:?}");
}
