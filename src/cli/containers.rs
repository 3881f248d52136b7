//! The nine operations as commands.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::api::client::UploadBody;
use crate::api::model::{ListParams, Order};
use crate::api::{Client, ContainerId, FileId};
use crate::cli::args::{self, Common, ContainerRef, Containers, Content, FileRef, Files, FormatKind, Paging};
use crate::cli::exit_codes::ExitCode;
use crate::cli::{format, output, server};

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
                ("expires_after", expires_after.clone()),
                ("memory_limit", memory_limit.clone().map(Value::String)),
                ("network_policy", network_policy.clone()),
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
            let deleted = server::call(common, async |client| Ok(client.delete_container(&id).await?))?;
            show(&told(&deleted, id.as_str(), "container.deleted"), one.format.kind())
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
                (Some(file), _) => {
                    let (body, name, _spooled) = source(file, filename.as_deref())?;
                    server::call(common, async |client| Ok(client.upload(&id, &name, body).await?))?
                }
                (None, Some(file_id)) => {
                    server::call(common, async |client| Ok(client.attach(&id, file_id).await?))?
                }
                (None, None) => bail!("--file or --file-id is needed"),
            };
            show(&serde_json::to_value(made)?, format.kind())
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
                server::call(common, async |client| Ok(client.delete_file(&container, &file).await?))?;
            show(&told(&deleted, file.as_str(), "container.file.deleted"), one.format.kind())
        }
    }
}

/// `containers:files:content …`.
///
/// # Errors
/// The server's words, or the disk's; what was there before stays then.
pub(super) fn content(command: &Content, common: &Common) -> Result<ExitCode> {
    let Content::Retrieve { file, output } = command;
    let Some((container, file)) = file.both() else { return missing_ids() };
    match output.as_deref().filter(|path| *path != Path::new("-")) {
        None => server::call(common, async |client| {
            let mut stdout = io::stdout().lock();
            match receive(&client, &container, &file, &mut stdout, false).await {
                Err(error) if is_broken_pipe(&error) => Ok(()),
                outcome => outcome,
            }
        })?,
        Some(path) => {
            let directory =
                path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let mut temporary = tempfile::Builder::new()
                .prefix(".containerfs-")
                .tempfile_in(directory)
                .with_context(|| format!("cannot write to {}", directory.display()))?;
            server::call(common, async |client| {
                receive(&client, &container, &file, temporary.as_file_mut(), true).await
            })?;
            set_usual_mode(temporary.as_file())?;
            temporary.persist(path).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    Ok(ExitCode::Success)
}

async fn receive(
    client: &Client,
    container: &ContainerId,
    file: &FileId,
    to: &mut impl Write,
    with_bar: bool,
) -> Result<()> {
    let mut content = client.content(container, file, None).await?;
    let bar = if with_bar && io::stderr().is_terminal() {
        ProgressBar::new(content.length.unwrap_or(0))
    } else {
        ProgressBar::hidden()
    };
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}") {
        bar.set_style(style);
    }
    while let Some(chunk) = content.chunk().await? {
        to.write_all(&chunk)?;
        bar.inc(chunk.len() as u64);
    }
    bar.finish_and_clear();
    to.flush()?;
    Ok(())
}

/// A temporary file is private; the one that it becomes has the mode that the umask gives.
fn set_usual_mode(file: &File) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mask = nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    nix::sys::stat::umask(mask);
    file.set_permissions(std::fs::Permissions::from_mode(0o666 & !mask.bits()))?;
    Ok(())
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// What to upload and under which name. Standard input, and whatever has no length, is spooled to a file first.
fn source(
    file: &Path,
    filename: Option<&str>,
) -> Result<(UploadBody, String, Option<tempfile::NamedTempFile>)> {
    let own = file.file_name().and_then(|name| name.to_str()).filter(|_| file != Path::new("-"));
    let name = filename.or(own).context("--filename is needed: standard input has no name")?.to_owned();
    let mut input: Box<dyn io::Read> = if file == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let opened = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
        let metadata = opened.metadata()?;
        if metadata.is_dir() {
            bail!("{} is a directory", file.display());
        }
        if metadata.is_file() {
            return Ok((UploadBody::File { path: file.to_owned(), len: metadata.len() }, name, None));
        }
        Box::new(opened)
    };
    let mut spooled = tempfile::NamedTempFile::new()?;
    let len = io::copy(&mut input, &mut spooled)?;
    Ok((UploadBody::File { path: spooled.path().to_owned(), len }, name, Some(spooled)))
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
    let mut params = ListParams { after: page.after.clone(), limit: page.limit, order, name };
    let kind = page.format.kind();
    server::call(common, async |client| {
        let fetch = async |params: &ListParams| match container {
            None => client.raw().list_containers(params).await,
            Some(container) => client.raw().list_files(container, params).await,
        };
        if kind != FormatKind::Jsonl {
            return format::print(&fetch(&params).await?, kind);
        }
        params.limit = params.limit.or(Some(LARGEST_PAGE));
        let mut left = page.max_items.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
        while left > 0 {
            let reply = fetch(&params).await?;
            let items = reply.get("data").and_then(Value::as_array).context("the reply has no `data`")?;
            for item in items.iter().take(left) {
                output::line(&item.to_string())?;
            }
            left = left.saturating_sub(items.len());
            let last =
                items.last().and_then(|item| item.get("id")).and_then(Value::as_str).map(str::to_owned);
            let goes_on = reply.get("has_more").and_then(Value::as_bool).unwrap_or(false);
            if !goes_on || last.is_none() || last == params.after {
                break;
            }
            params.after = last;
        }
        Ok(())
    })?;
    Ok(ExitCode::Success)
}

fn show(reply: &Value, kind: FormatKind) -> Result<ExitCode> {
    format::print(reply, kind)?;
    Ok(ExitCode::Success)
}

/// The reply to a deletion; a server that answers with nothing is taken at its word.
fn told(deleted: &crate::api::model::Deleted, id: &str, object: &str) -> Value {
    if deleted.id.is_empty() {
        return json!({ "id": id, "object": object, "deleted": true });
    }
    json!({ "id": deleted.id, "object": deleted.object, "deleted": deleted.deleted })
}

fn missing_ids() -> Result<ExitCode> {
    eprintln!("error: --container-id and --file-id are needed\n\nFor more information, try '--help'.");
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
