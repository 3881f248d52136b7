//! What may go wrong between a mount and its server.

use std::collections::BTreeMap;

use containerfs::emulator::{Fault, FaultRule, Kind};

use super::Rig;

/// A row of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    Status(u16, Option<&'static str>),
    ResetBefore,
    ResetAfter,
    HangBefore,
    HangMidBody,
    CutBody,
    LongBody,
    Html,
    WrongShape,
    HugeJson,
    EndlessList,
    Redirect,
    Expired,
    Phantom,
    Refused,
    NoName,
    Impostor,
    AllHang,
    All503,
}

impl Row {
    /// The row of the table that is called so.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "401" => Self::Status(401, None),
            "403" => Self::Status(403, None),
            "404" => Self::Status(404, None),
            "408" => Self::Status(408, None),
            "409" => Self::Status(409, None),
            "413" => Self::Status(413, None),
            "429" => Self::Status(429, None),
            "429, Retry-After: 1" => Self::Status(429, Some("1")),
            "429, Retry-After: 60" => Self::Status(429, Some("60")),
            "500" => Self::Status(500, None),
            "503" => Self::Status(503, None),
            "504" => Self::Status(504, None),
            "reset before" => Self::ResetBefore,
            "reset after" => Self::ResetAfter,
            "hang before headers" => Self::HangBefore,
            "hang in the body" => Self::HangMidBody,
            "cut body" => Self::CutBody,
            "body too long" => Self::LongBody,
            "HTML with 200" => Self::Html,
            "JSON of the wrong shape" => Self::WrongShape,
            "10 GiB of JSON" => Self::HugeJson,
            "endless list" => Self::EndlessList,
            "redirect elsewhere" => Self::Redirect,
            "expired container" => Self::Expired,
            "phantom" => Self::Phantom,
            "connection refused" => Self::Refused,
            "no such host" => Self::NoName,
            "wrong certificate" => Self::Impostor,
            "everything hangs" => Self::AllHang,
            "everything is 503" => Self::All503,
            _ => return None,
        })
    }

    /// Whether a gate is needed before the server.
    pub(super) fn needs_gate(self) -> bool {
        matches!(self, Self::Refused | Self::NoName | Self::Impostor)
    }

    /// Whether the container is gone afterwards, for all that is known here.
    pub(super) fn takes_the_container(self) -> bool {
        matches!(self, Self::Status(404, _) | Self::Expired)
    }

    /// Lets requests of `kind`, or all requests, of a container fail.
    pub(super) fn begin(self, rig: &Rig, kind: Option<Kind>, container: &str) {
        let fault = match self {
            Self::Expired => return rig.env.store().expire_container(container),
            Self::Phantom => return,
            Self::Refused => return rig.gate().refuse(),
            Self::NoName => return rig.gate().forget_the_name(),
            Self::Impostor => return rig.gate().impersonate(),
            Self::Status(code, wait) => {
                let headers = wait.map(|wait| ("retry-after".to_owned(), wait.to_owned()));
                Fault::Status { code, body: None, headers: headers.into_iter().collect() }
            }
            Self::ResetBefore => Fault::ResetBefore,
            Self::ResetAfter => Fault::ResetAfter,
            Self::HangBefore | Self::AllHang => Fault::HangBefore,
            Self::HangMidBody => Fault::HangMidBody { after: 10 },
            Self::CutBody => Fault::CutBody { after: 10 },
            Self::LongBody => Fault::LongBody,
            Self::Html => Fault::Html200,
            Self::WrongShape => Fault::WrongShape200,
            Self::HugeJson => Fault::HugeJson { bytes: 10 << 30 },
            Self::EndlessList => Fault::EndlessList,
            Self::Redirect => Fault::Redirect { location: "http://192.0.2.1/v1/steal".to_owned() },
            Self::All503 => Fault::Status { code: 503, body: None, headers: BTreeMap::new() },
        };
        let kind = kind.filter(|_| !matches!(self, Self::AllHang | Self::All503));
        rig.env.emulator.faults().inject(FaultRule { kind, ..FaultRule::always(Kind::Content, fault) });
    }

    /// Takes it back.
    pub(super) fn end(self, rig: &Rig) {
        rig.env.emulator.faults().clear();
        if self.needs_gate() {
            rig.gate().restore();
        }
    }
}
