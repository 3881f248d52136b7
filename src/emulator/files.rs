//! The operations on files that move no content.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::error::ApiError;
use super::objects;
use super::paging::{self, ListQuery};
use super::router::App;

pub(crate) fn list(app: &App, query: &str, container: &str) -> Result<Response, ApiError> {
    let query = ListQuery::parse(query, app.quirks.page_max, false)?;
    let (page, more) = app.store.list_files(container, &query).map_err(|error| app.refuse(&error))?;
    let data: Vec<Value> = page.iter().map(|file| objects::file(file, &app.quirks)).collect();
    Ok(objects::list(&data, more))
}

pub(crate) fn retrieve(app: &App, query: &str, container: &str, id: &str) -> Result<Response, ApiError> {
    paging::no_parameters(query)?;
    let file = app.store.file(container, id).map_err(|error| app.refuse(&error))?;
    Ok(Json(objects::file(&file, &app.quirks)).into_response())
}

pub(crate) async fn delete(app: &App, query: &str, container: &str, id: &str) -> Result<Response, ApiError> {
    paging::no_parameters(query)?;
    let (container, gone) = (container.to_owned(), id.to_owned());
    app.with_store(move |store| store.remove_file(&container, &gone)).await?;
    Ok(objects::deleted(id, "container.file.deleted", &app.quirks))
}
