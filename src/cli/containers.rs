//! The nine operations as commands.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use crate::api::model::{ListParams, Order};
use crate::api::{ContainerId, FileId, Reply};
use crate::cli::args::{self, Common, ContainerRef, Containers, Content, FileRef, Files, FormatKind, Paging};
use crate::cli::exit_codes::ExitCode;
use crate::cli::transfer::{self, Source};
use crate::cli::{format, server};

/// Items of a page when all pages are wanted.
const LARGEST_PAGE: u32 = 100;

/// `containers …`.
///
/// # Errors
/// The server's words.
pub(super) fn containers(command: &Containers, common: &Common) -> Result<ExitCode> {
    match command {
        Containers::List { page, name } => list(page, name.clone(), None, common),
        Containers::Create { name, expires_after, file_id, memory_limit, network_policy, skill, format } => {
            let mut params = json!({ "name": name });
            let given = [
                ("expires_after", expires_after.clone().map(anchored)),
                ("memory_limit", memory_limit.clone().map(Value::String)),
                ("network_policy", network_policy.clone().map(|policy| policy.0)),
                ("file_ids", (!file_id.is_empty()).then(|| json!(file_id))),
                ("skills", (!skill.is_empty()).then(|| json!(skill))),
            ];
            for (field, value) in given {
                if let Some(value) = value {
                    params[field] = value;
                }
            }
            let made =
                server::call(common, async |client| Ok(client.raw().create_container(&params).await?))?;
            show(&made, format.kind())
        }
        Containers::Retrieve(one) => {
            let id = one.container.id();
            let found =
                server::call(common, async |client| Ok(client.raw().retrieve_container(&id).await?))?;
            show(&found, one.format.kind())
        }
        Containers::Delete(one) => {
            let id = one.container.id();
            let deleted =
                server::call(common, async |client| Ok(client.raw().delete_container(&id).await?))?;
            show(&told(deleted, id.as_str(), "container.deleted")?, one.format.kind())
        }
    }
}

/// `containers:files …`.
///
/// # Errors
/// The server's words, or the file's.
pub(super) fn files(command: &Files, common: &Common) -> Result<ExitCode> {
    match command {
        Files::List { container, page } => list(page, None, Some(&container.id()), common),
        Files::Create { container, file, filename, file_id, format } => {
            let id = container.id();
            let made = match (file, file_id) {
                (Some(file), _) if file == Path::new("-") && filename.is_none() => {
                    return usage("--filename is needed: standard input has no name");
                }
                (Some(file), _) => {
                    let source = Source::open(file, filename.as_deref())?;
                    server::call(common, async |client| source.upload(&client, &id).await)?
                }
                (None, Some(file_id)) => {
                    server::call(common, async |client| Ok(client.raw().attach(&id, file_id).await?))?
                }
                (None, None) => bail!("--file or --file-id is needed"),
            };
            show(&made, format.kind())
        }
        Files::Retrieve(one) => {
            let Some((container, file)) = one.file.both() else { return missing_ids() };
            let found = server::call(common, async |client| {
                Ok(client.raw().retrieve_file(&container, &file).await?)
            })?;
            show(&found, one.format.kind())
        }
        Files::Delete(one) => {
            let Some((container, file)) = one.file.both() else { return missing_ids() };
            let deleted =
                server::call(common, async |client| Ok(client.raw().delete_file(&container, &file).await?))?;
            show(&told(deleted, file.as_str(), "container.file.deleted")?, one.format.kind())
        }
    }
}

/// `containers:files:content …`.
///
/// # Errors
/// The server's words, or the disk's; what was there before stays then.
pub(super) fn content(command: &Content, common: &Common) -> Result<ExitCode> {
    let Content::Retrieve { file, output, format: _ } = command;
    let Some((container, file)) = file.both() else { return missing_ids() };
    match output.as_deref() {
        Some(path) if path != Path::new("-") => transfer::to_file(common, &container, &file, path)?,
        given => transfer::to_stdout(common, &container, &file, given.is_some())?,
    }
    Ok(ExitCode::Success)
}

fn list(
    page: &Paging,
    name: Option<String>,
    container: Option<&ContainerId>,
    common: &Common,
) -> Result<ExitCode> {
    let order = page.order.map(|order| match order {
        args::Order::Asc => Order::Asc,
        args::Order::Desc => Order::Desc,
    });
    let params = ListParams { after: page.after.clone(), limit: page.limit, order, name };
    let kind = page.format.kind();
    server::call(common, async |client| {
        let fetch = async |params: &ListParams| match container {
            None => client.raw().list_containers(params).await,
            Some(container) => client.raw().list_files(container, params).await,
        };
        if kind == FormatKind::Jsonl {
            let print = |item: &RawValue| format::print(item, FormatKind::Jsonl);
            return walk(&params, page.max_items, fetch, print).await.map(drop);
        }
        if page.max_items.is_none() {
            let reply = fetch(&params).await?;
            format::print(&reply, kind)?;
            if kind == FormatKind::Table && Page::read(&reply).is_ok_and(|page| page.goes_on()) {
                eprintln!("containerfs: there are more: --max-items -1 shows all");
            }
            return Ok(());
        }
        let mut items = Vec::new();
        let has_more = walk(&params, page.max_items, fetch, |item| {
            items.push(item.to_owned());
            Ok(())
        })
        .await?;
        format::print(&one_page(&items, has_more)?, kind)
    })?;
    Ok(ExitCode::Success)
}

/// Hands on every item of every page, `most` at most if that is not negative. Returns whether there are more.
async fn walk(
    params: &ListParams,
    most: Option<i64>,
    fetch: impl AsyncFn(&ListParams) -> Result<Reply, crate::api::Error>,
    mut each: impl FnMut(&RawValue) -> Result<()>,
) -> Result<bool> {
    let mut params = params.clone();
    let mut left = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
    if params.limit.is_none() {
        params.limit = Some(u32::try_from(left).unwrap_or(LARGEST_PAGE).clamp(1, LARGEST_PAGE));
    }
    while left > 0 {
        let reply = fetch(&params).await?;
        let page = Page::read(&reply)?;
        let (items, goes_on) = (&page.data, page.goes_on());
        for item in items.iter().take(left) {
            each(item)?;
        }
        if left < items.len() || (left == items.len() && goes_on) {
            return Ok(true);
        }
        left -= items.len();
        let last = id_of(items.last().copied()).as_str().map(str::to_owned);
        if !goes_on || last.is_none() || last == params.after {
            return Ok(false);
        }
        params.after = last;
    }
    Ok(true)
}

/// Items of several pages in the envelope of one.
fn one_page(items: &[Reply], has_more: bool) -> Result<Reply> {
    #[derive(Serialize)]
    struct Envelope<'a> {
        object: &'static str,
        data: &'a [Reply],
        first_id: Value,
        last_id: Value,
        has_more: bool,
    }
    let (first_id, last_id) =
        (id_of(items.first().map(|item| &**item)), id_of(items.last().map(|item| &**item)));
    Ok(to_raw_value(&Envelope { object: "list", data: items, first_id, last_id, has_more })?)
}

fn id_of(item: Option<&RawValue>) -> Value {
    let item: Option<Value> = item.and_then(|item| serde_json::from_str(item.get()).ok());
    item.and_then(|item| item.get("id").cloned()).unwrap_or_default()
}

/// A page of a list, with its items as they came.
#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    data: Vec<&'a RawValue>,
    #[serde(default)]
    has_more: Value,
}

impl<'a> Page<'a> {
    fn read(reply: &'a RawValue) -> Result<Self> {
        serde_json::from_str(reply.get()).context("the reply has no `data`")
    }

    fn goes_on(&self) -> bool {
        self.has_more == Value::Bool(true)
    }
}

fn show(reply: &RawValue, kind: FormatKind) -> Result<ExitCode> {
    format::print(reply, kind)?;
    Ok(ExitCode::Success)
}

/// The reply to a deletion; a server that answers with nothing is taken at its word.
fn told(reply: Option<Reply>, id: &str, object: &str) -> Result<Reply> {
    let says_something = |reply: &Reply| {
        let read: Option<Value> = serde_json::from_str(reply.get()).ok();
        read.as_ref().and_then(Value::as_object).is_some_and(|read| !read.is_empty())
    };
    match reply.filter(says_something) {
        Some(reply) => Ok(reply),
        None => Ok(to_raw_value(&json!({ "id": id, "object": object, "deleted": true }))?),
    }
}

/// An expiry with its anchor, of which there is one: `--expires-after.minutes 10` is enough.
fn anchored(mut expires_after: Value) -> Value {
    if let Some(object) = expires_after.as_object_mut()
        && object.contains_key("minutes")
        && !object.contains_key("anchor")
    {
        object.insert("anchor".to_owned(), json!("last_active_at"));
    }
    expires_after
}

fn missing_ids() -> Result<ExitCode> {
    usage("--container-id and --file-id are needed")
}

/// What clap cannot express, told as clap tells it.
fn usage(wrong: &str) -> Result<ExitCode> {
    eprintln!("error: {wrong}\n\nFor more information, try '--help'.");
    Ok(ExitCode::Usage)
}

impl ContainerRef {
    fn id(&self) -> ContainerId {
        let given = self.container_id.as_deref().or(self.id.as_deref());
        ContainerId::from(given.unwrap_or_default())
    }
}

impl FileRef {
    /// Both ids, if both were given: flags first, then positions.
    fn both(&self) -> Option<(ContainerId, FileId)> {
        let mut positions = self.ids.iter();
        let container = self.container_id.as_ref().or_else(|| positions.next())?;
        let file = self.file_id.as_ref().or_else(|| positions.next())?;
        positions
            .next()
            .is_none()
            .then(|| (ContainerId::from(container.as_str()), FileId::from(file.as_str())))
    }
}
