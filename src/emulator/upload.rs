//! The upload: multipart or by a file's id.
//!
//! The body goes through memory in chunks. What is wrong with an upload is told after its last byte was read:
//! a client that is still sending would see a broken pipe in place of the reply.

use axum::Json;
use axum::body::Body;
use axum::extract::multipart::{Field, Multipart, MultipartError};
use axum::extract::{DefaultBodyLimit, FromRequest, Request};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};

use super::body::{drain, json_object};
use super::error::ApiError;
use super::objects;
use super::paging;
use super::router::App;
use super::store::{Staged, StoredFile};

pub(crate) async fn upload(
    app: &App,
    query: &str,
    container: &str,
    request: Request,
) -> Result<Response, ApiError> {
    let checked = paging::no_parameters(query)
        .and_then(|()| app.store.retrieve_container(container).map_err(|error| app.refuse(&error)));
    if let Err(refused) = checked {
        drain(request.into_body()).await;
        return Err(refused);
    }
    let content_type =
        request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let file = if content_type.starts_with("multipart/form-data") {
        from_form(app, container, request).await?
    } else if content_type.starts_with("application/json") {
        from_json(app, container, request.into_body()).await?
    } else {
        let message = format!("Unsupported content type: '{content_type}'.");
        drain(request.into_body()).await;
        return Err(ApiError::bad_request(message));
    };
    Ok(Json(objects::file(&file, &app.quirks)).into_response())
}

async fn from_json(app: &App, container: &str, body: Body) -> Result<StoredFile, ApiError> {
    let object = json_object(body).await?;
    if let Some(key) = object.keys().find(|key| *key != "file_id") {
        return Err(ApiError::unknown_parameter(key));
    }
    let id = object.get("file_id").filter(|id| !id.is_null());
    let id = id.ok_or_else(|| ApiError::missing_parameter("file_id"))?;
    let id = id.as_str().ok_or_else(|| ApiError::invalid_type("file_id", "a string", "another type"))?;
    attach(app, container, id).await
}

async fn attach(app: &App, container: &str, id: &str) -> Result<StoredFile, ApiError> {
    let (container, id) = (container.to_owned(), id.to_owned());
    app.with_store(move |store| store.attach(&container, &id)).await
}

async fn from_form(app: &App, container: &str, mut request: Request) -> Result<StoredFile, ApiError> {
    // The limit is the quirk's, counted below.
    DefaultBodyLimit::disable().apply(&mut request);
    let mut form = Multipart::from_request(request, &())
        .await
        .map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    let mut file: Option<Result<(String, Staged), ApiError>> = None;
    let mut file_id = None;
    let mut unknown = None;
    while let Some(field) = form.next_field().await.map_err(|error| malformed(&error))? {
        match field.name() {
            Some("file") if file.is_none() => file = Some(read_file(app, field).await?),
            Some("file_id") => file_id = Some(field.text().await.map_err(|error| malformed(&error))?),
            name => unknown = Some(name.unwrap_or_default().to_owned()),
        }
    }
    if let Some(name) = unknown {
        return Err(ApiError::unknown_parameter(&name));
    }
    match (file, file_id) {
        (Some(_), Some(_)) => Err(ApiError::invalid(
            "file_id",
            "Invalid 'file_id': expected either 'file' or 'file_id', not both.",
        )),
        (Some(file), None) => {
            let (name, staged) = file?;
            let container = container.to_owned();
            app.with_store(move |store| store.upload(&container, &name, staged)).await
        }
        (None, Some(id)) => attach(app, container, &id).await,
        (None, None) => Err(ApiError::missing_parameter("file")),
    }
}

/// The outer error is a broken request, the inner one a refusal of what was read to its end.
async fn read_file(app: &App, mut field: Field<'_>) -> Result<Result<(String, Staged), ApiError>, ApiError> {
    let sent = field.headers().get(CONTENT_DISPOSITION).and_then(|value| filename(value.as_bytes()));
    let sent = if app.quirks.decode_form_names { sent.map(|name| decode_form_name(&name)) } else { sent };
    let name = app.store.upload_name(&sent.unwrap_or_default());
    let mut stager = app.store.stager(&name);
    let mut too_large = false;
    while let Some(chunk) = field.chunk().await.map_err(|error| malformed(&error))? {
        too_large |= stager.len() + chunk.len() as u64 > app.quirks.max_upload;
        if !too_large {
            stager.write(&chunk).await.map_err(|error| ApiError::internal(&error))?;
        }
    }
    let staged = stager.finish().await.map_err(|error| ApiError::internal(&error))?;
    Ok(if too_large {
        Err(ApiError::too_large(app.quirks.max_upload))
    } else if name.is_empty() {
        Err(ApiError::invalid("file", "Invalid 'file': expected a file with a filename."))
    } else if (app.quirks.refuse_svg && staged.is_svg()) || (app.quirks.refuse_empty && staged.len == 0) {
        Err(ApiError::invalid_file())
    } else {
        Ok((name, staged))
    })
}

fn malformed(error: &MultipartError) -> ApiError {
    ApiError::bad_request(format!("Could not parse multipart form: {}", error.body_text()))
}

/// The `filename` of a Content-Disposition.
///
/// Some clients escape a quote with a backslash, browsers do not escape the backslash: one before the last
/// quote belongs to the name. Text inside another parameter's quotes is no parameter.
fn filename(header: &[u8]) -> Option<String> {
    let header = String::from_utf8_lossy(header);
    let mut rest = header.split_once(';')?.1;
    loop {
        let (name, value) = rest.split_once('=')?;
        let name = name.trim();
        let (value, after) = match value.trim_start().strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let (value, after) = value.split_once(';').unwrap_or((value, ""));
                (value.trim().to_owned(), after)
            }
        };
        if name.eq_ignore_ascii_case("filename") {
            return Some(value);
        }
        rest = after.trim_start().trim_start_matches(';');
    }
}

fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        let rest = &text[at + c.len_utf8()..];
        match c {
            '"' => return Some((value, rest)),
            '\\' if rest.starts_with('\\') || (rest.starts_with('"') && rest[1..].contains('"')) => {
                value.extend(chars.next().map(|(_, escaped)| escaped));
            }
            _ => value.push(c),
        }
    }
    None
}

/// Undoes the three escapes of HTML's form encoding; `%2F` and all others are part of the name.
fn decode_form_name(name: &str) -> String {
    name.replace("%22", "\"").replace("%0D", "\r").replace("%0A", "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filenames_are_read_as_clients_write_them() {
        for (sent, name) in [
            (r#"form-data; name="file"; filename="a.txt""#, Some("a.txt")),
            (r#"form-data; filename=a.txt; name=file"#, Some("a.txt")),
            (r#"form-data; name="file"; filename="Ü %2F/ä b.txt""#, Some("Ü %2F/ä b.txt")),
            (r#"form-data; name="file"; filename="a\"b.txt""#, Some("a\"b.txt")),
            (r#"form-data; name="file"; filename="end\""#, Some("end\\")),
            (r#"form-data; name="file"; filename="a\\b""#, Some("a\\b")),
            (r#"form-data; name="; filename=evil; x=""#, None),
            (r#"form-data; name="file""#, None),
            (r#"form-data; name="file"; filename="""#, Some("")),
        ] {
            assert_eq!(filename(sent.as_bytes()).as_deref(), name, "{sent}");
        }
        assert_eq!(decode_form_name("a%22b%0D%0A%2F%41"), "a\"b\r\n%2F%41");
    }
}
