//! Where the API key comes from. It is printed nowhere.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use secrecy::{ExposeSecret, SecretString};

use crate::cli::args::Common;

/// The key: of a file and a key that come from the same place, the file. What a better place beats is no longer in
/// `common`.
///
/// # Errors
/// There is none, or its file cannot be read.
pub(super) fn resolve(common: &Common) -> Result<SecretString> {
    let given = match (&common.api_key_file, &common.api_key) {
        (Some(file), _) => from_file(file)?,
        (None, Some(key)) => key.expose_secret().trim().to_owned(),
        (None, None) => String::new(),
    };
    if given.is_empty() {
        bail!(
            "no API key: set OPENAI_API_KEY, or name a file that holds it with --api-key-file \
             (`containerfs mount --demo DIR` needs none)"
        );
    }
    Ok(given.into())
}

fn from_file(file: &Path) -> Result<String> {
    let key = fs::read_to_string(file)
        .with_context(|| format!("cannot read the API key from {}", file.display()))?;
    let mode = fs::metadata(file)?.permissions().mode();
    if mode & 0o077 != 0 {
        eprintln!("containerfs: warning: others can read {}: `chmod 600` it", file.display());
    }
    Ok(key.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn common(args: &[&str]) -> Common {
        use clap::Parser;
        let args = ["containerfs"].iter().chain(args).chain(&["man"]);
        crate::cli::args::Cli::try_parse_from(args).unwrap().common
    }

    #[test]
    fn a_file_beats_the_flag_and_is_trimmed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        fs::write(&file, "sk-file\n").unwrap();
        let both = common(&["--api-key", "sk-flag", "--api-key-file", file.to_str().unwrap()]);
        assert_eq!(resolve(&both).unwrap().expose_secret(), "sk-file");
        let flag = common(&["--api-key", " sk-flag "]);
        assert_eq!(resolve(&flag).unwrap().expose_secret(), "sk-flag");
    }

    #[test]
    fn the_flags_do_not_print_the_key() {
        let shown = format!("{:?}", common(&["--api-key", "sk-flag"]));
        assert!(shown.contains("api_key") && !shown.contains("sk-flag"), "{shown}");
    }

    #[test]
    fn an_empty_key_is_none_and_the_error_says_what_to_do() {
        let error = resolve(&common(&["--api-key", " "])).unwrap_err().to_string();
        assert!(error.contains("OPENAI_API_KEY") && error.contains("--demo"), "{error}");
    }
}
