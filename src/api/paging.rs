//! Whole lists. Long ones are walked from both ends at once, until the ends overlap.

use std::collections::HashSet;

use crate::api::error::{Error, ErrorKind, Result};
use crate::api::model::{Container, File, ListParams, Order, Page};

/// Items of a page: the most that the API gives.
const PAGE: u32 = 100;

/// Something with an id.
pub(super) trait Item {
    fn id(&self) -> &str;
}

impl Item for Container {
    fn id(&self) -> &str {
        self.id.as_str()
    }
}

impl Item for File {
    fn id(&self) -> &str {
        self.id.as_str()
    }
}

/// One end of a list, and how far it has come.
struct End<T> {
    operation: &'static str,
    order: Order,
    items: Vec<T>,
    seen: HashSet<String>,
    after: Option<String>,
    finished: bool,
}

impl<T: Item> End<T> {
    fn new(operation: &'static str, order: Order) -> Self {
        Self { operation, order, items: Vec::new(), seen: HashSet::new(), after: None, finished: false }
    }

    fn next(&self) -> ListParams {
        ListParams { after: self.after.clone(), limit: Some(PAGE), order: Some(self.order), name: None }
    }

    /// Takes a page in. A list that goes on without bringing anything new would go on for ever.
    fn take(&mut self, page: Page<T>) -> Result<()> {
        let before = self.items.len();
        self.after = page.last_id.or_else(|| page.data.last().map(|item| item.id().to_owned()));
        for item in page.data {
            if self.seen.insert(item.id().to_owned()) {
                self.items.push(item);
            }
        }
        self.finished = !page.has_more;
        if page.has_more && (self.items.len() == before || self.after.is_none()) {
            let message = "the list says that it goes on and brings nothing new";
            return Err(Error::new(ErrorKind::Protocol, self.operation, message));
        }
        Ok(())
    }
}

/// Walks a list, newest first.
pub(super) async fn walk<T: Item, Fetch>(
    operation: &'static str,
    list: impl Fn(ListParams) -> Fetch,
) -> Result<Vec<T>>
where
    Fetch: Future<Output = Result<Page<T>>>,
{
    let mut newest = End::new(operation, Order::Desc);
    newest.take(list(newest.next()).await?)?;
    if newest.finished {
        return Ok(newest.items);
    }
    match both_ends(newest, &list).await {
        Ok(Some(items)) => return Ok(items),
        Ok(None) => {}
        Err(error)
            if matches!(error.kind, ErrorKind::Refused | ErrorKind::FileNotFound | ErrorKind::Protocol) =>
        {
            tracing::debug!(%error, "walking the list from one end");
        }
        Err(error) => return Err(error),
    }
    let mut plain = End::new(operation, Order::Desc);
    while !plain.finished {
        plain.take(list(plain.next()).await?)?;
    }
    Ok(plain.items)
}

/// The list from both ends; `None` if they don't fit together.
async fn both_ends<T: Item, Fetch>(
    mut newest: End<T>,
    list: &impl Fn(ListParams) -> Fetch,
) -> Result<Option<Vec<T>>>
where
    Fetch: Future<Output = Result<Page<T>>>,
{
    let mut oldest = End::new(newest.operation, Order::Asc);
    loop {
        let (new, old) = futures_util::future::join(list(newest.next()), list(oldest.next())).await;
        newest.take(new?)?;
        oldest.take(old?)?;
        if newest.finished {
            return Ok(Some(newest.items));
        }
        if oldest.finished {
            oldest.items.reverse();
            return Ok(Some(oldest.items));
        }
        if let Some(meeting) = oldest.items.iter().position(|item| newest.seen.contains(item.id())) {
            return Ok(joined(newest, oldest, meeting));
        }
    }
}

/// Puts two ends together that have met at `oldest[meeting]`: from there on, one must be the other backwards.
fn joined<T: Item>(newest: End<T>, mut oldest: End<T>, meeting: usize) -> Option<Vec<T>> {
    let common = oldest.items.len() - meeting;
    if common > newest.items.len() {
        return None;
    }
    let ours = newest.items[newest.items.len() - common..].iter().rev();
    let same = ours.zip(&oldest.items[meeting..]).all(|(a, b)| a.id() == b.id());
    if !same {
        return None;
    }
    oldest.items.truncate(meeting);
    let mut items = newest.items;
    items.extend(oldest.items.into_iter().rev());
    Some(items)
}
