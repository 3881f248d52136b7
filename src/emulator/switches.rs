//! Quirks as words: `NAME` or `NAME=VALUE`, for those who start the server from a command line.

use std::str::FromStr;

use super::profiles::{Quirks, ReplaceByName};

/// Every switch, as [`Quirks::set`] takes it.
pub const SWITCHES: [&str; 24] = [
    "upload-prefix",
    "keep-slashes",
    "decode-form-names",
    "null-sizes",
    "refuse-svg",
    "refuse-empty",
    "max-upload",
    "ranges",
    "replace-by-name",
    "expired-as-400",
    "delete-list-lag",
    "upload-list-lag",
    "rewritten-keeps-id",
    "empty-delete-bodies",
    "chunked-content",
    "chunked-json",
    "errors-as-200",
    "extra-fields",
    "sparse-containers",
    "active-status",
    "listing-is-use",
    "long-ids",
    "page-max",
    "expire-after-use",
];

/// A switch that is none, or a value that it does not take.
#[derive(Debug, thiserror::Error)]
pub enum BadSwitch {
    /// There is no such switch.
    #[error("there is no quirk {0}: {list} are", list = SWITCHES.join(", "))]
    Unknown(String),
    /// The value is of another kind.
    #[error("{name} takes {takes}, not {value:?}")]
    Value {
        /// The switch.
        name: String,
        /// What was given.
        value: String,
        /// What it takes.
        takes: &'static str,
    },
}

impl Quirks {
    /// Sets one quirk. A switch without a value is `true`; sizes are bytes or `50MiB`, times `5s`.
    ///
    /// # Errors
    /// The name is unknown, or the value does not fit.
    pub fn set(&mut self, switch: &str) -> Result<(), BadSwitch> {
        let (name, value) = switch.split_once('=').unwrap_or((switch, "true"));
        let bad = |takes| BadSwitch::Value { name: name.to_owned(), value: value.to_owned(), takes };
        let flag = || bool::from_str(value).map_err(|_| bad("true or false"));
        let time = || humantime::parse_duration(value).map_err(|_| bad("a time such as 5s"));
        match name {
            "upload-prefix" => self.upload_prefix = flag()?,
            "keep-slashes" => self.keep_slashes = flag()?,
            "decode-form-names" => self.decode_form_names = flag()?,
            "null-sizes" => self.null_sizes = flag()?,
            "refuse-svg" => self.refuse_svg = flag()?,
            "refuse-empty" => self.refuse_empty = flag()?,
            "max-upload" => {
                let size = bytesize::ByteSize::from_str(value).map_err(|_| bad("a size such as 50MiB"))?;
                self.max_upload = size.as_u64();
            }
            "ranges" => self.ranges = flag()?,
            "replace-by-name" => {
                self.replace_by_name = match value {
                    "second" => ReplaceByName::Second,
                    "replace" => ReplaceByName::Replace,
                    "same-id" => ReplaceByName::SameId,
                    _ => return Err(bad("second, replace or same-id")),
                }
            }
            "expired-as-400" => self.expired_as_400 = flag()?,
            "delete-list-lag" => self.delete_list_lag = time()?,
            "upload-list-lag" => self.upload_list_lag = time()?,
            "rewritten-keeps-id" => self.rewritten_keeps_id = flag()?,
            "empty-delete-bodies" => self.empty_delete_bodies = flag()?,
            "chunked-content" => self.chunked_content = flag()?,
            "chunked-json" => self.chunked_json = flag()?,
            "errors-as-200" => self.errors_as_200 = flag()?,
            "extra-fields" => self.extra_fields = flag()?,
            "sparse-containers" => self.sparse_containers = flag()?,
            "active-status" => self.active_status = flag()?,
            "listing-is-use" => self.listing_is_use = flag()?,
            "long-ids" => self.long_ids = flag()?,
            "page-max" => {
                let page_max = value.parse().ok().filter(|max| (1..=1000).contains(max));
                self.page_max = page_max.ok_or_else(|| bad("a number from 1 to 1000"))?;
            }
            "expire-after-use" => self.expire_after_use = flag()?,
            _ => return Err(BadSwitch::Unknown(name.to_owned())),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::emulator::Profile;

    fn value_for(switch: &str) -> &'static str {
        match switch {
            "max-upload" => "7MiB",
            "replace-by-name" => "same-id",
            "delete-list-lag" | "upload-list-lag" => "1m 5s",
            "page-max" => "7",
            _ => "",
        }
    }

    #[test]
    fn every_switch_changes_its_quirk() {
        for switch in SWITCHES {
            let before = Quirks::for_profile(Profile::Plain);
            let values = match value_for(switch) {
                "" => vec![format!("{switch}=false"), switch.to_owned()],
                value => vec![format!("{switch}={value}")],
            };
            let changed = values.iter().any(|set| {
                let mut after = before.clone();
                after.set(set).unwrap();
                after != before
            });
            assert!(changed, "{switch}");
        }
        let mut quirks = Quirks::for_profile(Profile::Plain);
        quirks.set("max-upload=7MiB").unwrap();
        quirks.set("delete-list-lag=1m 5s").unwrap();
        assert_eq!((quirks.max_upload, quirks.delete_list_lag), (7 << 20, Duration::from_secs(65)));
    }

    #[test]
    fn what_is_no_switch_is_told_with_those_that_are() {
        let mut quirks = Quirks::for_profile(Profile::Openai);
        let told = quirks.set("colour=red").unwrap_err().to_string();
        assert!(told.starts_with("there is no quirk colour: upload-prefix, ") && told.contains("page-max"));
        for bad in
            ["ranges=maybe", "page-max=0", "max-upload=much", "delete-list-lag=soon", "replace-by-name=no"]
        {
            assert!(quirks.set(bad).is_err(), "{bad}");
        }
        assert_eq!(quirks, Quirks::for_profile(Profile::Openai));
    }
}
