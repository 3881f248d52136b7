//! What is expected: the table of `docs/semantics.md`, which is written by hand here and nowhere else.

use super::faults::Row;
use super::operations::Column;

/// A row for each fault, a column for each call. `ok`: the call succeeds all the same; `-`: the fault cannot
/// meet it.
const TABLE: &str = "\
                        | lookup       getattr      readdir      open   read         create write        close        fsync        rename       unlink       mkdir        rmdir
401                     | EACCES       EACCES       EACCES       ok     EACCES       ok     EACCES       EACCES       EACCES       EACCES       EACCES       EACCES       EACCES
403                     | EACCES       EACCES       EACCES       ok     EACCES       ok     EACCES       EACCES       EACCES       EACCES       EACCES       EACCES       EACCES
404                     | ESTALE       ESTALE       ESTALE       ok     ESTALE       ok     ESTALE       ESTALE       ESTALE       ENOENT       ok           EPROTO       ok
408                     | ETIMEDOUT    ETIMEDOUT    ETIMEDOUT    ok     ETIMEDOUT    ok     ETIMEDOUT    ETIMEDOUT    ETIMEDOUT    ETIMEDOUT    ETIMEDOUT    ETIMEDOUT    ETIMEDOUT
409                     | EBUSY        EBUSY        EBUSY        ok     EBUSY        ok     EBUSY        EBUSY        EBUSY        EBUSY        EBUSY        EBUSY        EBUSY
413                     | EFBIG        EFBIG        EFBIG        ok     EFBIG        ok     EFBIG        EFBIG        EFBIG        EFBIG        EFBIG        EFBIG        EFBIG
429                     | EBUSY        EBUSY        EBUSY        ok     EBUSY        ok     EBUSY        EBUSY        EBUSY        EBUSY        EBUSY        EBUSY        EBUSY
429, Retry-After: 1     | EBUSY        EBUSY        EBUSY        ok     EBUSY        ok     EBUSY        EBUSY        EBUSY        EBUSY        EBUSY        EBUSY        EBUSY
429, Retry-After: 60    | EBUSY        EBUSY        EBUSY        ok     EBUSY        ok     EBUSY        EBUSY        EBUSY        EBUSY        EBUSY        EBUSY        EBUSY
500                     | EIO          EIO          EIO          ok     EIO          ok     EIO          EIO          EIO          EIO          EIO          EIO          EIO
503                     | EIO          EIO          EIO          ok     EIO          ok     EIO          EIO          EIO          EIO          EIO          EIO          EIO
504                     | EIO          EIO          EIO          ok     EIO          ok     EIO          EIO          EIO          EIO          EIO          EIO          EIO
reset before            | EIO          EIO          EIO          ok     EIO          ok     EIO          EIO          EIO          EIO          EIO          EIO          EIO
reset after             | EIO          EIO          EIO          ok     EIO          ok     EIO          ok           ok           ok           EIO          ok           EIO
hang before headers     | ETIMEDOUT    ETIMEDOUT    ETIMEDOUT    ok     ETIMEDOUT    ok     ETIMEDOUT    ETIMEDOUT    ETIMEDOUT    ETIMEDOUT    ETIMEDOUT    ETIMEDOUT    ETIMEDOUT
hang in the body        | ETIMEDOUT    ETIMEDOUT    ETIMEDOUT    ok     ETIMEDOUT    ok     ETIMEDOUT    ETIMEDOUT    ETIMEDOUT    ETIMEDOUT    ETIMEDOUT    ETIMEDOUT    ETIMEDOUT
cut body                | EIO          EIO          EIO          ok     EIO          ok     EIO          ok           ok           ok           ok           ok           ok
body too long           | EPROTO       EPROTO       EPROTO       ok     EIO          ok     EIO          EPROTO       EPROTO       EPROTO       EPROTO       ok           EPROTO
HTML with 200           | EPROTO       EPROTO       EPROTO       ok     EPROTO       ok     EPROTO       EPROTO       EPROTO       EPROTO       EPROTO       EPROTO       EPROTO
JSON of the wrong shape | EPROTO       EPROTO       EPROTO       ok     EPROTO       ok     EPROTO       EPROTO       EPROTO       EPROTO       EPROTO       EPROTO       EPROTO
10 GiB of JSON          | EPROTO       EPROTO       EPROTO       ok     EPROTO       ok     EPROTO       EPROTO       EPROTO       EPROTO       EPROTO       EPROTO       EPROTO
endless list            | EPROTO       EPROTO       EPROTO       ok     -            -      -            -            -            -            -            -            -
redirect elsewhere      | EPROTO       EPROTO       EPROTO       ok     EPROTO       ok     EPROTO       EPROTO       EPROTO       EPROTO       EPROTO       EPROTO       EPROTO
expired container       | ENOENT       ESTALE       ESTALE       ok     ESTALE       ok     ESTALE       ESTALE       ESTALE       ENOENT       ENOENT       -            ok
phantom                 | ENOENT       -            -            -      -            -      -            -            -            -            -            -            -
connection refused      | EHOSTUNREACH EHOSTUNREACH EHOSTUNREACH ok     EHOSTUNREACH ok     EHOSTUNREACH EHOSTUNREACH EHOSTUNREACH EHOSTUNREACH EHOSTUNREACH EHOSTUNREACH EHOSTUNREACH
no such host            | EHOSTUNREACH EHOSTUNREACH EHOSTUNREACH ok     EHOSTUNREACH ok     EHOSTUNREACH EHOSTUNREACH EHOSTUNREACH EHOSTUNREACH EHOSTUNREACH EHOSTUNREACH EHOSTUNREACH
wrong certificate       | EHOSTUNREACH EHOSTUNREACH EHOSTUNREACH ok     EHOSTUNREACH ok     EHOSTUNREACH EHOSTUNREACH EHOSTUNREACH EHOSTUNREACH EHOSTUNREACH EHOSTUNREACH EHOSTUNREACH
everything hangs        | ETIMEDOUT    ETIMEDOUT    ETIMEDOUT    ok     ETIMEDOUT    ok     ETIMEDOUT    ETIMEDOUT    ETIMEDOUT    ETIMEDOUT    ETIMEDOUT    ETIMEDOUT    ETIMEDOUT
everything is 503       | EIO          EIO          EIO          ok     EIO          ok     EIO          EIO          EIO          EIO          EIO          EIO          EIO
";

/// One row: its name, and what each column of [`Column::ALL`] expects.
fn rows() -> Vec<(&'static str, Vec<&'static str>)> {
    let split = |line: &'static str| {
        let (name, cells) = line.split_once('|').unwrap();
        (name.trim(), cells.split_whitespace().collect::<Vec<_>>())
    };
    let mut lines = TABLE.lines().map(split);
    let (_, head) = lines.next().unwrap();
    assert_eq!(head, Column::ALL.map(Column::name));
    lines.inspect(|(name, cells)| assert_eq!(cells.len(), Column::ALL.len(), "{name}")).collect()
}

/// A call, a fault, and what comes of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    pub(super) row: Row,
    pub(super) row_name: &'static str,
    pub(super) column: Column,
    pub(super) expected: &'static str,
}

pub(super) fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for (row_name, expectations) in rows() {
        let row = Row::named(row_name).unwrap_or_else(|| panic!("no fault is called {row_name}"));
        for (column, expected) in Column::ALL.into_iter().zip(expectations).filter(|(_, e)| *e != "-") {
            cells.push(Cell { row, row_name, column, expected });
        }
    }
    cells
}

/// The table as Markdown.
pub(super) fn markdown() -> String {
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        cells.fold(String::from("|"), |line, cell| format!("{line} {cell} |")) + "\n"
    };
    let mut text = line(&mut std::iter::once("").chain(Column::ALL.map(Column::name)));
    text += &line(&mut std::iter::repeat_n("---", Column::ALL.len() + 1));
    for (name, cells) in rows() {
        text += &line(&mut std::iter::once(name).chain(cells));
    }
    text
}
