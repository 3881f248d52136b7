//! Whole lists. Long ones are walked from both ends at once, until the ends overlap; again, from the places
//! that the last walk remembered, all at once.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::try_join_all;

use crate::api::error::{Error, ErrorKind, Result};
use crate::api::model::{Container, File, ListParams, Order, Page};

/// Items of a page: the most that the API gives.
const PAGE: u32 = 100;

/// Items from one cursor to the next. Less than a page, so that each part shows the cursor with which the
/// next begins and a little of what follows, also when a few items are new.
const PART: usize = 95;

/// Items that one walk takes in, those included that it meets twice: a list that brings ever new ones would
/// never end, and each page gives its time back to the call.
const ITEMS_MAX: usize = 500_000;

/// How often a walk page by page begins again because its place is gone.
const BEGINNINGS: u32 = 10;

/// A whole list, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List<T> {
    /// What could be read of it.
    pub items: Vec<T>,
    /// Whether there are items without a readable id.
    pub has_unread: bool,
}

impl<T> List<T> {
    fn new() -> Self {
        Self { items: Vec::new(), has_unread: false }
    }
}

/// Something with an id.
pub(super) trait Item {
    fn id(&self) -> &str;

    /// Whether anything about it can still change.
    fn is_settled(&self) -> bool {
        false
    }
}

impl Item for Container {
    fn id(&self) -> &str {
        self.id.as_str()
    }

    fn is_settled(&self) -> bool {
        !self.is_live()
    }
}

/// The places in a list, newest first, from which the next walk can begin everywhere at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursors(Vec<Cursor>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Cursor {
    /// The last item before the part.
    after: String,
    /// Nothing in the part can change any more: it need not be fetched again.
    settled: bool,
}

impl Cursors {
    /// Appends a part and what divides it; `after` is the last item before it.
    fn push<T: Item>(&mut self, after: Option<&str>, items: &[T]) {
        let mut after = after.map(str::to_owned);
        for part in items.chunks(PART) {
            if let Some(after) = after {
                self.0.push(Cursor { after, settled: part.iter().all(Item::is_settled) });
            }
            after = part.last().map(|item| item.id().to_owned());
        }
    }

    fn of<T: Item>(items: &[T]) -> Self {
        let mut cursors = Self::default();
        if items.len() > PAGE as usize {
            cursors.push(None, items);
        }
        cursors
    }
}

impl Item for File {
    fn id(&self) -> &str {
        self.id.as_str()
    }
}

/// One end of a list, and how far it has come.
struct End<'a, T> {
    operation: &'static str,
    /// Items that the walk may yet take in.
    room: &'a AtomicUsize,
    order: Order,
    list: List<T>,
    seen: HashSet<String>,
    /// Where the pages ended of which nothing could be read.
    unread_to: HashSet<String>,
    after: Option<String>,
    finished: bool,
}

impl<'a, T: Item> End<'a, T> {
    fn new(operation: &'static str, room: &'a AtomicUsize, order: Order) -> Self {
        Self::starting(operation, room, order, None)
    }

    fn starting(operation: &'static str, room: &'a AtomicUsize, order: Order, after: Option<String>) -> Self {
        let (seen, unread_to) = (HashSet::new(), HashSet::new());
        Self { operation, room, order, list: List::new(), seen, unread_to, after, finished: false }
    }

    fn next(&self) -> ListParams {
        ListParams { after: self.after.clone(), limit: Some(PAGE), order: Some(self.order), name: None }
    }

    /// Takes a page in. A list that goes on without bringing anything new would go on for ever.
    fn take(&mut self, page: Page<T>) -> Result<()> {
        let items = page.data.len() + page.unread;
        let room = |room: usize| room.checked_sub(items);
        if self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_err() {
            let message = format!("the list goes on beyond {ITEMS_MAX} items");
            return Err(Error::new(ErrorKind::Protocol, self.operation, message));
        }
        let before = self.list.items.len();
        self.list.has_unread |= page.unread > 0;
        self.after = page.last_id.or_else(|| page.data.last().map(|item| item.id().to_owned()));
        for item in page.data {
            if self.seen.insert(item.id().to_owned()) {
                self.list.items.push(item);
            }
        }
        self.finished = !page.has_more;
        let is_new = self.list.items.len() > before
            || page.unread > 0 && self.after.clone().is_some_and(|after| self.unread_to.insert(after));
        if page.has_more && (!is_new || self.after.is_none()) {
            let message = "the list says that it goes on and brings nothing new";
            return Err(Error::new(ErrorKind::Protocol, self.operation, message));
        }
        Ok(())
    }
}

/// Walks a list, newest first, without what is settled as far as `cursors` from the last walk tell; changes
/// them into those for the next.
pub(super) async fn walk<T: Item, Fetch>(
    operation: &'static str,
    cursors: &mut Cursors,
    list: impl Fn(ListParams) -> Fetch,
) -> Result<List<T>>
where
    Fetch: Future<Output = Result<Page<T>>>,
{
    let before = std::mem::take(cursors);
    let room = AtomicUsize::new(ITEMS_MAX);
    if !before.0.is_empty()
        && let Some(whole) = fitting(parts(operation, &room, &before, cursors, &list).await)?
    {
        return Ok(whole);
    }
    let whole = anew(operation, &room, &list).await?;
    if whole.has_unread && whole.items.is_empty() {
        return Err(Error::new(
            ErrorKind::Protocol,
            operation,
            "no item of the list has an id: check the base URL",
        ));
    }
    *cursors = Cursors::of(&whole.items);
    Ok(whole)
}

/// Whether the server refuses to go on from a place in the list.
fn is_no_place(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::Refused | ErrorKind::FileNotFound)
}

/// What cannot be put together, or begins at a place that the server refuses, is to be walked in another way.
fn fitting<T>(outcome: Result<Option<T>>) -> Result<Option<T>> {
    match outcome {
        Err(error) if is_no_place(&error) || error.kind == ErrorKind::Protocol => {
            tracing::debug!(%error, "walking the list in another way");
            Ok(None)
        }
        outcome => outcome,
    }
}

/// Walks the parts of a list that may have changed, all at once; `None` if they don't fit together.
async fn parts<T: Item, Fetch>(
    operation: &'static str,
    room: &AtomicUsize,
    before: &Cursors,
    next: &mut Cursors,
    list: &impl Fn(ListParams) -> Fetch,
) -> Result<Option<List<T>>>
where
    Fetch: Future<Output = Result<Page<T>>>,
{
    let begins = |part: usize| part.checked_sub(1).map(|place| before.0[place].after.as_str());
    let ends = |part: usize| before.0.get(part).map(|cursor| cursor.after.as_str());
    let settled = |part: usize| part.checked_sub(1).is_some_and(|place| before.0[place].settled);
    let fetched = (0..=before.0.len()).map(|part| async move {
        if settled(part) {
            return Ok(Some(List::new()));
        }
        // What is new stands before the first part and may fill pages; the others have not grown.
        let pages = if part == 0 || ends(part).is_none() { usize::MAX } else { 1 };
        let mut end = End::starting(operation, room, Order::Desc, begins(part).map(str::to_owned));
        for _ in 0..pages {
            end.take(list(end.next()).await?)?;
            if ends(part).is_some_and(|until| end.seen.contains(until)) {
                return Ok(Some(end.list));
            }
            if end.finished {
                break;
            }
        }
        Ok(ends(part).is_none().then_some(end.list))
    });
    let Some(fetched) = try_join_all(fetched).await?.into_iter().collect::<Option<Vec<_>>>() else {
        return Ok(None);
    };
    let has_unread = fetched.iter().any(|part| part.has_unread);
    let mut items: Vec<T> = Vec::new();
    let mut beyond: Vec<T> = Vec::new();
    let mut cursors = Cursors::default();
    for (part, List { items: mut found, .. }) in fetched.into_iter().enumerate() {
        if settled(part) {
            cursors.0.push(before.0[part - 1].clone());
            beyond.clear();
            continue;
        }
        if !beyond.iter().zip(&found).all(|(a, b)| a.id() == b.id()) {
            return Ok(None);
        }
        beyond.clear();
        if let Some(until) = ends(part) {
            let last = found.iter().position(|item| item.id() == until);
            beyond = found.split_off(last.map_or(found.len(), |last| last + 1));
        }
        cursors.push(begins(part), &found);
        items.extend(found);
    }
    let mut ids = HashSet::new();
    if !items.iter().all(|item| ids.insert(item.id())) {
        return Ok(None);
    }
    // Parts that have shrunk are joined again, unless something between them was left out.
    let whole = !before.0.iter().any(|cursor| cursor.settled);
    *next = if whole { Cursors::of(&items) } else { cursors };
    Ok(Some(List { items, has_unread }))
}

/// Walks a list of which nothing is known.
async fn anew<T: Item, Fetch>(
    operation: &'static str,
    room: &AtomicUsize,
    list: &impl Fn(ListParams) -> Fetch,
) -> Result<List<T>>
where
    Fetch: Future<Output = Result<Page<T>>>,
{
    let mut newest = End::new(operation, room, Order::Desc);
    newest.take(list(newest.next()).await?)?;
    if newest.finished {
        return Ok(newest.list);
    }
    if let Some(whole) = fitting(both_ends(newest, list).await)? {
        return Ok(whole);
    }
    let mut beginnings = 0;
    let mut plain = End::new(operation, room, Order::Desc);
    while !plain.finished {
        match list(plain.next()).await {
            // Where the last page ended there is nothing any more: somebody deletes files meanwhile.
            Err(error) if plain.after.is_some() && beginnings < BEGINNINGS && is_no_place(&error) => {
                beginnings += 1;
                plain = End::new(operation, room, Order::Desc);
            }
            page => plain.take(page?)?,
        }
    }
    Ok(plain.list)
}

/// The list from both ends; `None` if they don't fit together.
async fn both_ends<T: Item, Fetch>(
    mut newest: End<'_, T>,
    list: &impl Fn(ListParams) -> Fetch,
) -> Result<Option<List<T>>>
where
    Fetch: Future<Output = Result<Page<T>>>,
{
    let mut oldest = End::new(newest.operation, newest.room, Order::Asc);
    loop {
        let (new, old) = futures_util::future::join(list(newest.next()), list(oldest.next())).await;
        newest.take(new?)?;
        oldest.take(old?)?;
        if newest.finished {
            return Ok(Some(newest.list));
        }
        if oldest.finished {
            oldest.list.items.reverse();
            return Ok(Some(oldest.list));
        }
        if let Some(meeting) = oldest.list.items.iter().position(|item| newest.seen.contains(item.id())) {
            return Ok(joined(newest, oldest, meeting));
        }
    }
}

/// Puts two ends together that have met at `oldest[meeting]`: from there on, one must be the other backwards.
fn joined<T: Item>(newest: End<'_, T>, oldest: End<'_, T>, meeting: usize) -> Option<List<T>> {
    let has_unread = newest.list.has_unread || oldest.list.has_unread;
    let (mut items, mut oldest) = (newest.list.items, oldest.list.items);
    let common = oldest.len() - meeting;
    if common > items.len() {
        return None;
    }
    let ours = items[items.len() - common..].iter().rev();
    let same = ours.zip(&oldest[meeting..]).all(|(a, b)| a.id() == b.id());
    if !same {
        return None;
    }
    oldest.truncate(meeting);
    items.extend(oldest.into_iter().rev());
    Some(List { items, has_unread })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A page of a server whose list is `ids`, newest first; a number is an id that cannot be read.
    fn page(ids: &[Value], params: &ListParams) -> Page<File> {
        let mut ids = ids.to_vec();
        if params.order == Some(Order::Asc) {
            ids.reverse();
        }
        let text = |id: &Value| id.as_str().map_or_else(|| id.to_string(), str::to_owned);
        let from = params.after.as_ref().map_or(0, |after| {
            1 + ids.iter().position(|id| text(id) == *after).expect("the cursor is one of the list")
        });
        let rest = &ids[from..];
        let shown = &rest[..rest.len().min(PAGE as usize)];
        let data: Vec<_> = shown.iter().map(|id| json!({"id": id})).collect();
        let (first, last) = (shown.first().map(text), shown.last().map(text));
        let page =
            json!({"data": data, "first_id": first, "last_id": last, "has_more": shown.len() < rest.len()});
        serde_json::from_value(page).unwrap()
    }

    async fn walked(ids: &[Value], cursors: &mut Cursors) -> Result<List<File>> {
        walk("list files", cursors, async |params: ListParams| Ok(page(ids, &params))).await
    }

    #[tokio::test]
    async fn items_without_an_id_take_no_others_away_wherever_they_stand() {
        let good = |count: usize| (0..count).map(|n| json!(format!("cfile_{n}"))).collect::<Vec<_>>();
        for (count, bad) in [
            (3, 0..1),
            (100, 99..102),
            (101, 100..101),
            (150, 100..101),
            (250, 0..1),
            (250, 99..100),
            (250, 100..101),
            (250, 100..200),
            (500, 100..330),
            (500, 94..96),
        ] {
            let whole = good(count);
            let mut ids = whole.clone();
            ids.splice(bad.start..bad.start, bad.clone().map(Value::from));
            let mut cursors = Cursors::default();
            walked(&whole, &mut cursors).await.unwrap();
            // Anew; with the cursors of a list that had none; with its own.
            for cursors in [&mut Cursors::default(), &mut cursors.clone(), &mut cursors] {
                for _ in 0..2 {
                    let list = walked(&ids, cursors).await.unwrap();
                    let read: Vec<_> = list.items.iter().map(|file| json!(file.id)).collect();
                    assert!(read == whole && list.has_unread, "{count} with {bad:?}: {} read", read.len());
                }
            }
        }
    }

    #[tokio::test]
    async fn a_list_that_brings_ever_new_items_ends() {
        let (pages, mut cursors) = (AtomicUsize::new(0), Cursors::default());
        cursors.0.push(Cursor { after: "cfile".to_owned(), settled: false });
        let endless = async |_| {
            let page = pages.fetch_add(1, Ordering::Relaxed);
            let data: Vec<_> = (0..PAGE).map(|n| json!({"id": format!("cfile_{page}_{n}")})).collect();
            let page: Page<File> = serde_json::from_value(json!({"data": data, "has_more": true})).unwrap();
            Ok(page)
        };
        let error = walk("list files", &mut cursors, endless).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Protocol);
        assert!(pages.into_inner() <= ITEMS_MAX / PAGE as usize + 10);
    }

    #[tokio::test]
    async fn a_list_whose_places_go_while_it_is_walked_is_walked_to_its_end() {
        let ids = std::sync::Mutex::new((0..350).map(|n| json!(format!("cfile_{n}"))).collect::<Vec<_>>());
        let deletions = AtomicUsize::new(0);
        // The last file of a page is deleted before the next one is asked for, seven times.
        let list = async |params: ListParams| {
            let mut ids = ids.lock().unwrap();
            if let Some(after) = &params.after
                && deletions.fetch_add(1, Ordering::Relaxed) < 7
            {
                ids.retain(|id| id != after);
            }
            if params.after.as_ref().is_some_and(|after| !ids.iter().any(|id| id == after)) {
                return Err(Error::new(ErrorKind::Refused, "list files", "no such object"));
            }
            Ok(page(&ids, &params))
        };
        let list = walk("list files", &mut Cursors::default(), list).await.unwrap();
        let read: Vec<_> = list.items.iter().map(|file| json!(file.id)).collect();
        assert_eq!(read, *ids.lock().unwrap());
        assert!(read.len() < 346);
    }

    #[tokio::test]
    async fn a_list_of_which_nothing_can_be_read_is_none() {
        for count in [1, 100, 250] {
            let ids: Vec<_> = (0..count).map(Value::from).collect();
            let error = walked(&ids, &mut Cursors::default()).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Protocol);
        }
        assert_eq!(walked(&[], &mut Cursors::default()).await.unwrap(), List::new());
    }
}
