//! Failures on request: which request is to fail, and how.
//!
//! A rule waits for requests that match it, lets `skip` of them pass, and then spoils `times` of them. Rules
//! are tried in the order of their injection; one request meets at most one fault.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::requests::Kind;

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Fault {
    /// This status, and nothing is done.
    Status {
        /// The HTTP status.
        code: u16,
        /// The body as it is sent; none is the official error envelope.
        #[serde(default)]
        body: Option<String>,
        /// Further headers, such as `retry-after`.
        #[serde(default)]
        headers: BTreeMap<String, String>,
    },
    /// The request is carried out, and this status replied.
    StatusAfter {
        /// The HTTP status.
        code: u16,
        /// Further headers, such as `x-should-retry`.
        #[serde(default)]
        headers: BTreeMap<String, String>,
    },
    /// The connection is reset, and nothing is done.
    ResetBefore,
    /// The request is carried out, then the connection is reset with no reply.
    ResetAfter,
    /// Nothing is done and nothing is ever replied.
    HangBefore,
    /// The request is carried out and nothing is ever replied.
    HangAfter,
    /// The reply's body stops for ever.
    HangMidBody {
        /// After so many bytes.
        after: u64,
    },
    /// The reply's body is cut off and the connection closed; its `Content-Length` tells the whole length.
    CutBody {
        /// After so many bytes.
        after: u64,
    },
    /// The reply's body is 4096 bytes longer than the file; its `Content-Length` tells the length that is
    /// sent.
    LongBody,
    /// 200 with an HTML page, as captive portals send, and nothing is done.
    Html200,
    /// 200 with JSON that is none of the API's objects, and nothing is done.
    WrongShape200,
    /// 200 with a JSON object that does not want to end, and nothing is done.
    HugeJson {
        /// How many bytes of it are sent.
        bytes: u64,
    },
    /// A list that always has more, under the same cursor.
    EndlessList,
    /// 307 to elsewhere, and nothing is done.
    Redirect {
        /// The `Location`.
        location: String,
    },
    /// The request waits before it is carried out.
    Delay {
        /// Milliseconds.
        millis: u64,
    },
    /// The request is carried out at once, and the reply waits.
    DelayAfter {
        /// Milliseconds.
        millis: u64,
    },
    /// Both bodies, of request and reply, crawl.
    Throttle {
        /// Bytes in a second.
        bytes_per_second: u64,
    },
}

/// Which requests meet a fault.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// Only this operation.
    #[serde(default)]
    pub kind: Option<Kind>,
    /// Only if path and query, as they were sent, contain this.
    #[serde(default)]
    pub path_contains: Option<String>,
    /// So many matching requests pass first.
    #[serde(default)]
    pub skip: u32,
    /// So many meet the fault; none is all that follow.
    #[serde(default)]
    pub times: Option<u32>,
    /// What goes wrong.
    pub fault: Fault,
}

impl FaultRule {
    /// Every request of an operation meets the fault.
    pub fn always(kind: Kind, fault: Fault) -> Self {
        Self { kind: Some(kind), path_contains: None, skip: 0, times: None, fault }
    }

    /// The next request of an operation meets the fault.
    pub fn once(kind: Kind, fault: Fault) -> Self {
        Self { times: Some(1), ..Self::always(kind, fault) }
    }

    fn matches(&self, kind: Kind, path: &str) -> bool {
        self.times != Some(0)
            && self.kind.is_none_or(|wanted| wanted == kind)
            && self.path_contains.as_ref().is_none_or(|part| path.contains(part))
    }
}

/// The rules in force.
#[derive(Default)]
pub struct Faults {
    rules: Mutex<Vec<FaultRule>>,
}

impl Faults {
    /// Adds a rule after those already in force.
    pub fn inject(&self, rule: FaultRule) {
        self.lock().push(rule);
    }

    /// Takes every rule back. Requests that already met a fault are not helped.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// The fault for a request, counted.
    pub(crate) fn pick(&self, kind: Kind, path: &str) -> Option<Fault> {
        let mut rules = self.lock();
        for rule in rules.iter_mut().filter(|rule| rule.matches(kind, path)) {
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            if let Some(times) = &mut rule.times {
                *times -= 1;
            }
            return Some(rule.fault.clone());
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, Vec<FaultRule>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_skips_then_spoils_then_rests() {
        let faults = Faults::default();
        faults.inject(FaultRule { skip: 1, ..FaultRule::once(Kind::Upload, Fault::ResetBefore) });
        assert_eq!(faults.pick(Kind::Content, "/"), None);
        assert_eq!(faults.pick(Kind::Upload, "/"), None);
        assert_eq!(faults.pick(Kind::Upload, "/"), Some(Fault::ResetBefore));
        assert_eq!(faults.pick(Kind::Upload, "/"), None);
    }

    #[test]
    fn a_rule_is_read_from_json() {
        let rule: FaultRule =
            serde_json::from_str(r#"{"kind":"content","times":2,"fault":{"type":"cut_body","after":9}}"#)
                .unwrap();
        assert_eq!(rule.fault, Fault::CutBody { after: 9 });
        assert_eq!((rule.skip, rule.times), (0, Some(2)));
    }
}
