//! Whole lists. Long ones are walked from both ends at once, until the ends overlap; again, from the places that the
//! last walk remembered, all at once.

use std::collections::HashSet;

use futures_util::future::try_join_all;

use crate::api::error::{Error, ErrorKind, Result};
use crate::api::model::{Container, File, ListParams, Order, Page};

/// Items of a page: the most that the API gives.
const PAGE: u32 = 100;

/// Items from one cursor to the next. Less than a page, so that each part shows the cursor with which the next begins
/// and a little of what follows, also when a few items are new.
const PART: usize = 95;

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
        Self::starting(operation, order, None)
    }

    fn starting(operation: &'static str, order: Order, after: Option<String>) -> Self {
        Self { operation, order, items: Vec::new(), seen: HashSet::new(), after, finished: false }
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

/// Walks a list, newest first, without what is settled as far as `cursors` from the last walk tell; changes them into
/// those for the next.
pub(super) async fn walk<T: Item, Fetch>(
    operation: &'static str,
    cursors: &mut Cursors,
    list: impl Fn(ListParams) -> Fetch,
) -> Result<Vec<T>>
where
    Fetch: Future<Output = Result<Page<T>>>,
{
    let before = std::mem::take(cursors);
    if !before.0.is_empty()
        && let Some(items) = fitting(parts(operation, &before, cursors, &list).await)?
    {
        return Ok(items);
    }
    let items = anew(operation, &list).await?;
    *cursors = Cursors::of(&items);
    Ok(items)
}

/// What cannot be put together, or begins at a place that the server refuses, is to be walked in another way.
fn fitting<T>(outcome: Result<Option<T>>) -> Result<Option<T>> {
    match outcome {
        Err(error)
            if matches!(error.kind, ErrorKind::Refused | ErrorKind::FileNotFound | ErrorKind::Protocol) =>
        {
            tracing::debug!(%error, "walking the list in another way");
            Ok(None)
        }
        outcome => outcome,
    }
}

/// Walks the parts of a list that may have changed, all at once; `None` if they don't fit together.
async fn parts<T: Item, Fetch>(
    operation: &'static str,
    before: &Cursors,
    next: &mut Cursors,
    list: &impl Fn(ListParams) -> Fetch,
) -> Result<Option<Vec<T>>>
where
    Fetch: Future<Output = Result<Page<T>>>,
{
    let begins = |part: usize| part.checked_sub(1).map(|place| before.0[place].after.as_str());
    let ends = |part: usize| before.0.get(part).map(|cursor| cursor.after.as_str());
    let settled = |part: usize| part.checked_sub(1).is_some_and(|place| before.0[place].settled);
    let fetched = (0..=before.0.len()).map(|part| async move {
        if settled(part) {
            return Ok(Some(Vec::new()));
        }
        // What is new stands before the first part and may fill pages; the others have not grown.
        let pages = if part == 0 || ends(part).is_none() { usize::MAX } else { 1 };
        let mut end = End::starting(operation, Order::Desc, begins(part).map(str::to_owned));
        for _ in 0..pages {
            end.take(list(end.next()).await?)?;
            if ends(part).is_some_and(|until| end.seen.contains(until)) {
                return Ok(Some(end.items));
            }
            if end.finished {
                break;
            }
        }
        Ok(ends(part).is_none().then_some(end.items))
    });
    let Some(fetched) = try_join_all(fetched).await?.into_iter().collect::<Option<Vec<_>>>() else {
        return Ok(None);
    };
    let mut items: Vec<T> = Vec::new();
    let mut beyond: Vec<T> = Vec::new();
    let mut cursors = Cursors::default();
    for (part, mut found) in fetched.into_iter().enumerate() {
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
    Ok(Some(items))
}

/// Walks a list of which nothing is known.
async fn anew<T: Item, Fetch>(operation: &'static str, list: &impl Fn(ListParams) -> Fetch) -> Result<Vec<T>>
where
    Fetch: Future<Output = Result<Page<T>>>,
{
    let mut newest = End::new(operation, Order::Desc);
    newest.take(list(newest.next()).await?)?;
    if newest.finished {
        return Ok(newest.items);
    }
    if let Some(items) = fitting(both_ends(newest, list).await)? {
        return Ok(items);
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
