//! The nine operations of the API as commands, with the flags of the official CLI.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::values::{as_it_is, json, policy};
use crate::api::NetworkPolicy;

/// `containerfs containers`.
#[derive(Debug, Subcommand)]
pub enum Containers {
    /// List containers.
    List {
        /// Which page.
        #[command(flatten)]
        page: Paging,
        /// Only containers of this name.
        #[arg(long)]
        name: Option<String>,
    },
    /// Make a container. Objects are JSON, or dotted: --expires-after.minutes 10.
    Create {
        /// Its name.
        #[arg(long)]
        name: String,
        /// When it expires: {"anchor":"last_active_at","minutes":10}.
        #[arg(long, value_name = "JSON", value_parser = json)]
        expires_after: Option<serde_json::Value>,
        /// A file of the Files API to copy in; may be repeated.
        #[arg(long, value_name = "ID")]
        file_id: Vec<String>,
        /// 1g, 4g, 16g or 64g.
        #[arg(long, value_name = "SIZE")]
        memory_limit: Option<String>,
        /// `disabled`, or {"type":"allowlist","allowed_domains":[…]}.
        #[arg(long, value_name = "JSON", value_parser = policy)]
        network_policy: Option<NetworkPolicy>,
        /// A skill, by reference or inline; may be repeated.
        #[arg(long, value_name = "JSON", value_parser = json)]
        skill: Vec<serde_json::Value>,
        /// How to print.
        #[command(flatten)]
        format: Format,
    },
    /// Show a container.
    Retrieve(OneContainer),
    /// Delete a container.
    Delete(OneContainer),
}

/// `containerfs containers:files`.
#[derive(Debug, Subcommand)]
pub enum Files {
    /// List files.
    List {
        /// Of which container.
        #[command(flatten)]
        container: ContainerRef,
        /// Which page.
        #[command(flatten)]
        page: Paging,
    },
    /// Upload a file, or attach one of the Files API.
    #[command(group = clap::ArgGroup::new("source").required(true))]
    Create {
        /// Into which container.
        #[command(flatten)]
        container: ContainerRef,
        /// The file to upload, byte for byte; `-` reads standard input.
        #[arg(long, value_name = "FILE", group = "source")]
        file: Option<PathBuf>,
        /// The name to upload under [default: that of the file].
        #[arg(long, value_name = "NAME", requires = "file")]
        filename: Option<String>,
        /// A file of the Files API.
        #[arg(long, value_name = "ID", group = "source")]
        file_id: Option<String>,
        /// How to print.
        #[command(flatten)]
        format: Format,
    },
    /// Show a file.
    Retrieve(OneFile),
    /// Delete a file.
    Delete(OneFile),
}

/// `containerfs containers:files:content`.
#[derive(Debug, Subcommand)]
pub enum Content {
    /// Write the content of a file to standard output, or to --output.
    Retrieve {
        /// Which file.
        #[command(flatten)]
        file: FileRef,
        /// Where to; replaced when the whole content has arrived. `-` is standard output.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        /// raw: the content as it is, which it always is.
        #[arg(long, value_name = "FORMAT", value_parser = as_it_is)]
        format: Option<FormatKind>,
    },
}

/// One container, and how to print it.
#[derive(Debug, Args)]
pub struct OneContainer {
    /// Which.
    #[command(flatten)]
    pub container: ContainerRef,
    /// How to print.
    #[command(flatten)]
    pub format: Format,
}

/// One file, and how to print it.
#[derive(Debug, Args)]
pub struct OneFile {
    /// Which.
    #[command(flatten)]
    pub file: FileRef,
    /// How to print.
    #[command(flatten)]
    pub format: Format,
}

/// A container, by flag or position.
#[derive(Debug, Args)]
pub struct ContainerRef {
    /// The container's id.
    #[arg(long, value_name = "ID", required_unless_present = "id")]
    pub container_id: Option<String>,
    /// The same by position.
    #[arg(value_name = "CONTAINER_ID", conflicts_with = "container_id")]
    pub id: Option<String>,
}

/// A file of a container, by flags or positions.
#[derive(Debug, Args)]
pub struct FileRef {
    /// The container's id.
    #[arg(long, value_name = "ID")]
    pub container_id: Option<String>,
    /// The file's id.
    #[arg(long, value_name = "ID")]
    pub file_id: Option<String>,
    /// The ids that no flag gives, the container's first.
    #[arg(value_name = "CONTAINER_ID FILE_ID", num_args = 0..=2)]
    pub ids: Vec<String>,
}

/// Which page of a list, and how to print it.
#[derive(Clone, Debug, Args)]
pub struct Paging {
    /// The id after which the page begins.
    #[arg(long, value_name = "ID")]
    pub after: Option<String>,
    /// Items of a page, 1 to 100.
    #[arg(long, value_name = "N")]
    pub limit: Option<u32>,
    /// By creation.
    #[arg(long)]
    pub order: Option<Order>,
    /// How many items, of as many pages as it takes; -1 for all [default: one page, with --format jsonl
    /// all].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
    pub max_items: Option<i64>,
    /// How to print.
    #[command(flatten)]
    pub format: Format,
}

/// How to print a reply.
#[derive(Clone, Copy, Debug, Args)]
pub struct Format {
    /// json is the reply, pretty; jsonl an item a line; raw the reply as it came. [default: table on a
    /// terminal, json elsewhere]
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<FormatKind>,
}

/// The forms of a printed reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatKind {
    /// Pretty JSON.
    Json,
    /// An item a line.
    Jsonl,
    /// The reply as it came.
    Raw,
    /// For people.
    Table,
}

/// The order of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Order {
    /// Oldest first.
    Asc,
    /// Newest first.
    Desc,
}
