//! The inputs that are kept, and what is made of them.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::Index;

/// The inputs of a target, with the names of their files.
#[derive(Clone, Debug)]
pub(crate) struct Corpus(Arc<Vec<(String, Vec<u8>)>>);

impl Corpus {
    pub(crate) fn of(target: &str) -> Self {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
        let mut files: Vec<_> = fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
            .collect();
        assert!(!files.is_empty(), "{} is empty", dir.display());
        files.sort();
        Self(Arc::new(files))
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, input)| (name.as_str(), input.as_slice()))
    }

    fn pick(&self, at: Index) -> &[u8] {
        &at.get(&self.0).1
    }
}

#[derive(Clone, Debug)]
enum Mutation {
    Flip(Index, u8),
    Truncate(Index),
    /// Repeats what lies between two places.
    Duplicate(Index, Index, usize),
    Remove(Index, Index),
    Insert(Index, Vec<u8>),
    /// Goes on with the end of another file.
    Splice(Index, Index, Index),
}

impl Mutation {
    fn apply(&self, input: &mut Vec<u8>, corpus: &Corpus) {
        let place = |at: &Index, len: usize| at.index(len + 1);
        let range = |a: &Index, b: &Index, len: usize| {
            let (a, b) = (place(a, len), place(b, len));
            a.min(b)..a.max(b)
        };
        match self {
            Self::Flip(at, bits) if !input.is_empty() => {
                let at = at.index(input.len());
                input[at] ^= bits;
            }
            Self::Flip(..) => {}
            Self::Truncate(at) => input.truncate(place(at, input.len())),
            Self::Duplicate(from, to, times) => {
                let range = range(from, to, input.len());
                let (end, part) = (range.end, input[range].repeat(*times));
                input.splice(end..end, part);
            }
            Self::Remove(from, to) => drop(input.drain(range(from, to, input.len()))),
            Self::Insert(at, bytes) => {
                let at = place(at, input.len());
                input.splice(at..at, bytes.iter().copied());
            }
            Self::Splice(at, other, from) => {
                let other = corpus.pick(*other);
                input.truncate(place(at, input.len()));
                input.extend_from_slice(&other[place(from, other.len())..]);
            }
        }
    }
}

/// What readers of JSON, TOML and paths stumble over.
const TOKENS: [&[u8]; 24] = [
    b"\0",
    b"\n",
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"null",
    b"-1",
    b"1e999",
    b"\\u0000",
    b"\\ud800",
    b"../",
    b"/",
    b"//",
    b".",
    b"%2F",
    b"\xff",
    b"\xe2\x80\xae",
    b"18446744073709551616",
    b"~",
];

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<Index>;
    let bytes = prop_oneof![
        prop::sample::select(TOKENS.to_vec()).prop_map(<[u8]>::to_vec),
        prop::collection::vec(any::<u8>(), 1..8),
    ];
    prop_oneof![
        4 => (at(), 1..=255_u8).prop_map(|(at, bits)| Mutation::Flip(at, bits)),
        1 => at().prop_map(Mutation::Truncate),
        2 => (at(), at(), 1..4_usize).prop_map(|(from, to, times)| Mutation::Duplicate(from, to, times)),
        1 => (at(), at()).prop_map(|(from, to)| Mutation::Remove(from, to)),
        4 => (at(), bytes).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        1 => (at(), at(), at()).prop_map(|(at, other, from)| Mutation::Splice(at, other, from)),
    ]
}

/// Files of the corpus with a few changes.
pub(crate) fn mutated(corpus: &Corpus) -> BoxedStrategy<Vec<u8>> {
    let corpus = corpus.clone();
    (any::<Index>(), prop::collection::vec(mutation(), 1..6))
        .prop_map(move |(file, mutations)| {
            let mut input = corpus.pick(file).to_vec();
            for mutation in mutations {
                mutation.apply(&mut input, &corpus);
            }
            input
        })
        .boxed()
}
