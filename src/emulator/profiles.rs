//! Which server to be.
//!
//! A profile is a set of [`Quirks`]: `openai` does what the real service is seen to do, `plain` is a server
//! without surprises. Each quirk is a public field, because what nobody knows about the real service must be
//! tried both ways, and a switch of the command line (`switches`).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A named set of quirks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// What the real service is seen to do: renamed uploads, null sizes, no ranges, refusals.
    #[default]
    Openai,
    /// A server without surprises: names as sent, sizes always, ranges.
    Plain,
}

/// The text is no profile's name.
#[derive(Debug, thiserror::Error)]
#[error("unknown profile {0:?}: expected openai or plain")]
pub struct UnknownProfile(String);

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "openai" => Ok(Self::Openai),
            "plain" => Ok(Self::Plain),
            _ => Err(UnknownProfile(text.to_owned())),
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Openai => "openai",
            Self::Plain => "plain",
        })
    }
}

/// What a second upload of a name does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplaceByName {
    /// Makes a second file; the first stays.
    Second,
    /// Removes the first file and makes one with a new id.
    Replace,
    /// Keeps id and place of the first file and exchanges its bytes.
    SameId,
}

/// Every behaviour in which servers of this API differ, or may.
#[derive(Clone, Debug, PartialEq)]
pub struct Quirks {
    /// An upload of `x.txt` lands at `/mnt/data/<32 hex>-x.txt`; the same name and bytes give the same
    /// prefix.
    pub upload_prefix: bool,
    /// Slashes in an upload's filename make directories; otherwise only what follows the last one counts.
    pub keep_slashes: bool,
    /// `%22`, `%0D` and `%0A` in a filename, which browsers send for a quote and line ends, are decoded.
    pub decode_form_names: bool,
    /// `bytes` is null for files that the model wrote.
    pub null_sizes: bool,
    /// SVG is refused with 400 `You uploaded an invalid file`.
    pub refuse_svg: bool,
    /// An empty upload is refused likewise.
    pub refuse_empty: bool,
    /// Uploads of more bytes than this are refused with 413.
    pub max_upload: u64,
    /// `Range` is honoured and `Accept-Ranges` sent.
    pub ranges: bool,
    /// What a second upload of a name does.
    pub replace_by_name: ReplaceByName,
    /// An expired container answers 400, not 404.
    pub expired_as_400: bool,
    /// So long a deleted file or container stays in lists.
    pub delete_list_lag: Duration,
    /// So long a new upload is missing from lists.
    pub upload_list_lag: Duration,
    /// A file that the model writes again keeps its id and `created_at`.
    pub rewritten_keeps_id: bool,
    /// Deletes reply with an empty body.
    pub empty_delete_bodies: bool,
    /// Content is sent in chunks, with no `Content-Length`.
    pub chunked_content: bool,
    /// JSON is sent in chunks too.
    pub chunked_json: bool,
    /// Errors are told in the body of a 200, their status as the `code`.
    pub errors_as_200: bool,
    /// Objects carry fields that the reference does not name.
    pub extra_fields: bool,
    /// Containers carry only what can be relied on: `id`, `name`, `status`, `created_at`.
    pub sparse_containers: bool,
    /// A container that lives is `active`, as the reference says, and not `running`.
    pub active_status: bool,
    /// Containers expire by themselves, their minutes after their last use; no profile asks for it.
    pub expire_after_use: bool,
    /// Listing containers counts as use of each of them.
    pub listing_is_use: bool,
    /// Ids have 240 characters.
    pub long_ids: bool,
    /// The largest `limit` of a list.
    pub page_max: u32,
}

impl Quirks {
    /// The quirks of a profile.
    pub fn for_profile(profile: Profile) -> Self {
        let plain = Self {
            upload_prefix: false,
            keep_slashes: true,
            decode_form_names: true,
            null_sizes: false,
            refuse_svg: false,
            refuse_empty: false,
            max_upload: 512 * 1024 * 1024,
            ranges: true,
            replace_by_name: ReplaceByName::Replace,
            expired_as_400: false,
            delete_list_lag: Duration::ZERO,
            upload_list_lag: Duration::ZERO,
            rewritten_keeps_id: true,
            empty_delete_bodies: false,
            chunked_content: false,
            chunked_json: false,
            errors_as_200: false,
            extra_fields: false,
            sparse_containers: false,
            active_status: false,
            expire_after_use: false,
            listing_is_use: false,
            long_ids: false,
            page_max: 100,
        };
        match profile {
            Profile::Plain => plain,
            Profile::Openai => Self {
                upload_prefix: true,
                keep_slashes: false,
                null_sizes: true,
                refuse_svg: true,
                max_upload: 50 * 1024 * 1024,
                ranges: false,
                replace_by_name: ReplaceByName::Second,
                ..plain
            },
        }
    }
}
