//! Lists: the strict query, and one page of an ordered collection.
//!
//! Items are ordered by a sequence number, not by `created_at`, whose resolution of one second would leave
//! the order of a burst open.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::error::ApiError;

/// What a list request asks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListQuery {
    pub(crate) after: Option<String>,
    pub(crate) limit: usize,
    pub(crate) ascending: bool,
    pub(crate) name: Option<String>,
}

impl ListQuery {
    /// Reads a query string; `name` is a parameter of one of the two lists only.
    pub(crate) fn parse(query: &str, page_max: u32, with_name: bool) -> Result<Self, ApiError> {
        let mut list = Self { limit: 20.min(page_max as usize), ..Self::default() };
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "after" if value.is_empty() => {}
                "after" => list.after = Some(value.into_owned()),
                "limit" => {
                    let limit = value
                        .parse()
                        .map_err(|_| ApiError::invalid_type("limit", "an integer", "a string"))?;
                    let limit = ApiError::check_integer("limit", limit, 1, i64::from(page_max))?;
                    list.limit = usize::try_from(limit).expect("between 1 and a u32");
                }
                "order" => match &*value {
                    "asc" => list.ascending = true,
                    "desc" => list.ascending = false,
                    _ => return Err(ApiError::invalid_value("order", &value, &["asc", "desc"])),
                },
                "name" if with_name => list.name = Some(value.into_owned()),
                _ => return Err(ApiError::unknown_parameter(&key)),
            }
        }
        Ok(list)
    }
}

/// Refuses every parameter, for the operations that have none.
pub(crate) fn no_parameters(query: &str) -> Result<(), ApiError> {
    match url::form_urlencoded::parse(query.as_bytes()).next() {
        Some((key, _)) => Err(ApiError::unknown_parameter(&key)),
        None => Ok(()),
    }
}

/// A page of what is visible, and whether more follows.
pub(crate) fn page<'a, T>(
    items: &'a BTreeMap<u64, T>,
    after: Option<u64>,
    query: &ListQuery,
    visible: impl Fn(&T) -> bool,
) -> (Vec<&'a T>, bool) {
    let bounds = match (query.ascending, after) {
        (_, None) => (Bound::Unbounded, Bound::Unbounded),
        (true, Some(seq)) => (Bound::Excluded(seq), Bound::Unbounded),
        (false, Some(seq)) => (Bound::Unbounded, Bound::Excluded(seq)),
    };
    let range = items.range(bounds).map(|(_, item)| item);
    let take = |items: &mut dyn Iterator<Item = &'a T>| -> Vec<&'a T> {
        items.filter(|item| visible(item)).take(query.limit + 1).collect()
    };
    let mut found = if query.ascending { take(&mut { range }) } else { take(&mut range.rev()) };
    let has_more = found.len() > query.limit;
    found.truncate(query.limit);
    (found, has_more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_meet_without_overlap_in_both_orders() {
        let items: BTreeMap<u64, u64> = (0..7).map(|n| (n * 3, n)).collect();
        for ascending in [true, false] {
            let query = ListQuery { limit: 3, ascending, ..ListQuery::default() };
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let (found, more) = page(&items, after, &query, |_| true);
                seen.extend(found.iter().map(|n| **n));
                after = found.last().map(|n| **n * 3);
                if !more {
                    break;
                }
            }
            let mut expected: Vec<u64> = (0..7).collect();
            if !ascending {
                expected.reverse();
            }
            assert_eq!(seen, expected);
        }
    }

    #[test]
    fn the_query_is_strict() {
        assert_eq!(ListQuery::parse("", 100, false).unwrap().limit, 20);
        for bad in ["limit=0", "limit=101", "limit=x", "order=up", "name=a", "colour=red"] {
            assert!(ListQuery::parse(bad, 100, false).is_err(), "{bad}");
        }
        assert_eq!(ListQuery::parse("name=a%20b", 100, true).unwrap().name.as_deref(), Some("a b"));
    }
}
