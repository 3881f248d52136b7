//! The papers say what the code does: tests that they name exist, flags that exist are named.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

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

/// The `unsafe` of each file below `src`, comments and lints aside.
fn unsafe_below(directory: &Path, found: &mut BTreeMap<String, usize>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            unsafe_below(&path, found);
            continue;
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        let code = text.lines().map(|line| line.split("//").next().unwrap());
        let count =
            code.map(|line| line.matches("unsafe {").count() + line.matches("unsafe fn").count()).sum();
        if count > 0 && path.extension().is_some_and(|extension| extension == "rs") {
            let shown = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().display().to_string();
            found.insert(shown, count);
        }
    }
}

#[test]
fn the_security_page_counts_every_unsafe_block() {
    let mut found = BTreeMap::new();
    unsafe_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    let told = rows(&read("docs/security.md"), "Unsafe code");
    let told: BTreeMap<String, usize> =
        told.iter().map(|row| (row[0].trim_matches('`').to_owned(), row[1].parse().unwrap())).collect();
    assert!(!found.is_empty());
    assert_eq!(told, found);
}

#[test]
fn every_crate_comes_from_where_deny_toml_allows() {
    let deny: toml::Table = read("deny.toml").parse().unwrap();
    let sources = deny["sources"].as_table().unwrap();
    assert_eq!(sources["unknown-registry"].as_str(), Some("deny"));
    let allowed = sources["allow-registry"].as_array().unwrap();
    let allowed: Vec<String> =
        allowed.iter().map(|registry| format!("registry+{}", registry.as_str().unwrap())).collect();
    let lock: toml::Table = read("Cargo.lock").parse().unwrap();
    let packages = lock["package"].as_array().unwrap();
    let sources = packages.iter().filter_map(|package| package.get("source")?.as_str());
    assert!(packages.len() > 100);
    for source in sources {
        assert!(allowed.iter().any(|registry| registry == source), "{source}");
    }
}

/// The words in backticks that begin with two dashes, without the dashes.
fn flags_in(text: &str) -> BTreeSet<String> {
    text.split("--")
        .skip(1)
        .map(|rest| rest.split(|c: char| c != '-' && !c.is_ascii_alphanumeric()).next().unwrap())
        .filter(|flag| flag.len() > 1 && !flag.starts_with('-'))
        .map(str::to_owned)
        .collect()
}

/// The rows of the table under a heading, as cells.
fn rows(page: &str, heading: &str) -> Vec<Vec<String>> {
    let section = page.split("\n## ").find(|section| section.starts_with(heading));
    let section = section.unwrap_or_else(|| panic!("no section {heading:?}"));
    let rows = section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix('|'));
    let cells =
        |row: &str| row.replace("\\|", "\u{1}").split('|').map(|cell| cell.trim().to_owned()).collect();
    rows.map(cells).filter(|cells: &Vec<String>| cells[0].contains('`') || cells[0].is_empty()).collect()
}

fn command() -> clap::Command {
    use clap::CommandFactory;
    let mut command = containerfs::cli::args::Cli::command();
    command.build();
    command
}

/// Checks a table of flags against the arguments that it is of, both ways.
fn check_table(page: &str, heading: &str, defined: &[&clap::Arg], default_at: usize) {
    let rows = rows(page, heading);
    let told: BTreeSet<String> = rows.iter().flat_map(|row| flags_in(&row[0])).collect();
    let known: BTreeSet<String> =
        defined.iter().filter_map(|arg| arg.get_long()).map(str::to_owned).collect();
    assert_eq!(told, known, "the flags of {heading:?}");
    for arg in defined {
        let Some(long) = arg.get_long() else { continue };
        let row = rows.iter().find(|row| flags_in(&row[0]).contains(long)).unwrap();
        if let Some(env) = arg.get_env() {
            let env = format!("`{}`", env.to_str().unwrap());
            assert!(row[1..].iter().any(|cell| cell.contains(&env)), "--{long}: {env} is not told");
        }
        if !arg.get_action().takes_values() {
            continue;
        }
        if let [value] = arg.get_default_values() {
            assert_eq!(row[default_at], format!("`{}`", value.to_str().unwrap()), "the default of --{long}");
        } else if let Some(told) = row[default_at].split('`').nth(1) {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&format!("[default: {told}")), "--{long} has no default {told}: {help}");
        }
    }
}

#[test]
fn the_configuration_page_has_every_flag_with_its_variable_and_default_and_no_other() {
    let (page, command) = (read("docs/configuration.md"), command());
    let shown =
        |arg: &&clap::Arg| !arg.is_hide_set() && !matches!(arg.get_long(), None | Some("help" | "version"));
    let common: Vec<&clap::Arg> = command.get_arguments().filter(|arg| arg.is_global_set()).collect();
    check_table(&page, "Server and logging", &common, 2);
    let mount = command.find_subcommand("mount").unwrap();
    let own: Vec<&clap::Arg> =
        mount.get_arguments().filter(shown).filter(|arg| !arg.is_global_set()).collect();
    assert!(own.len() > 25, "{own:?}");
    check_table(&page, "`containerfs mount", &own, 1);
}

/// Each command that does something, by the words that call it, with its own flags.
fn commands(of: &clap::Command, before: &str, found: &mut BTreeMap<String, BTreeSet<String>>) {
    for sub in of.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let name = format!("{before} {}", sub.get_name()).trim().to_owned();
        if sub.has_subcommands() {
            commands(sub, &name, found);
        } else {
            let own = sub.get_arguments().filter(|arg| !arg.is_global_set() && !arg.is_hide_set());
            let flags = own.filter_map(|arg| arg.get_long()).filter(|long| *long != "help");
            found.insert(name, flags.map(str::to_owned).collect());
        }
    }
}

#[test]
fn the_configuration_page_has_every_command_with_its_flags_and_no_other() {
    let page = read("docs/configuration.md");
    let mut defined = BTreeMap::new();
    commands(&command(), "", &mut defined);
    defined.remove("mount");
    let mut told: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in rows(&page, "The nine operations") {
        // `containers retrieve`, `delete`: the second has the group of the first.
        let names: Vec<&str> = row[0].split('`').skip(1).step_by(2).collect();
        let group = names[0].split(' ').next().unwrap();
        for name in &names {
            let name = if name.contains(' ') { (*name).to_owned() } else { format!("{group} {name}") };
            let mut flags = flags_in(&row[1]);
            if name != "containers:files:content retrieve" {
                // It is told below the table for all of them.
                flags.insert("format".to_owned());
            }
            told.entry(name).or_default().extend(flags);
        }
    }
    for row in rows(&page, "Other commands") {
        let call = row[0].split('`').nth(1).unwrap();
        let is_word = |word: &&str| word.chars().all(|c| c.is_ascii_lowercase() || c == ':');
        let name = call.split(' ').take_while(is_word).collect::<Vec<_>>().join(" ");
        told.entry(name).or_default().extend(flags_in(call));
    }
    // Where unsent bytes lie is told once, for all commands of `pending`.
    for (name, flags) in &mut told {
        if name.starts_with("pending ") {
            flags.insert("state-dir".to_owned());
        }
    }
    assert_eq!(told, defined);
}

#[test]
fn the_picture_of_the_readme_shows_commands_that_there_are() {
    assert!(read("README.md").contains("(docs/demo.svg)"));
    let (script, picture) = (read("docs/demo.py"), read("docs/demo.svg"));
    let list = script.split_once("COMMANDS = [\n").unwrap().1.split_once("\n]").unwrap().0;
    let typed: Vec<&str> = list.lines().map(|line| line.trim().trim_matches([',', '"'])).collect();
    assert!(typed.len() > 5, "{typed:?}");
    for line in typed {
        let shown = line.replace('&', "&amp;").replace('>', "&gt;");
        assert!(picture.contains(&format!(">{shown}</text>")), "{line}: record docs/demo.svg anew");
        for part in line.split(" && ").filter(|part| part.starts_with("containerfs ")) {
            command().try_get_matches_from(part.split(' ')).unwrap();
        }
    }
}
