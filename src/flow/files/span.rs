//! A range of a file, and what is known about it.

use std::{
    io::{self, BufRead, BufReader, Read},
    ops::Range,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use crate::flow::files::{
    cut::{Cut, Cutter},
    gzip::{self, Input, shorter},
};

/// Bytes read from a file at a time.
pub(super) const CHUNK_BYTES: usize = 256 << 10;

/// The longest row that is read; a longer one is an error.
pub(super) const ROW_BYTES_MAX: usize = 64 << 20;

/// The byte order mark of UTF-8.
pub(super) const MARK: &[u8] = b"\xef\xbb\xbf";

/// How files are made into rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    pub cut: Cut,
    pub blank: Blank,
    pub first: First,
}

/// Which rows are passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blank {
    /// None.
    Kept,
    /// Those without a byte.
    #[cfg_attr(not(feature = "files"), expect(dead_code, reason = "of CSV"))]
    Empty,
    /// Those of nothing but white space.
    #[cfg_attr(not(feature = "files"), expect(dead_code, reason = "of JSON"))]
    White,
}

/// What the first row of a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum First {
    /// A row like any other.
    Row,
    /// A row like any other, which those who read another part of the file have to know as well.
    #[cfg_attr(not(feature = "files"), expect(dead_code, reason = "of CSV"))]
    Model,
    /// No row, but what says how to read the others.
    Header,
}

impl Reading {
    /// Whether a row is passed over.
    pub fn is_blank(&self, row: &[u8]) -> bool {
        match self.blank {
            Blank::Kept => false,
            Blank::Empty => row.is_empty(),
            Blank::White => row.iter().all(u8::is_ascii_whitespace),
        }
    }
}

/// A range of a file: those rows of it whose first byte lies there.
#[derive(Debug)]
pub(crate) struct Span {
    pub path: PathBuf,
    pub start: u64,
    /// Rows that start here or further on are another span's.
    pub end: u64,
    /// The file's, when the flow was built.
    pub length: u64,
    pub reading: Reading,
    pub compressed: bool,
    lines_before: OnceLock<u64>,
    /// With its offset in the file.
    first: OnceLock<(Vec<u8>, u64)>,
}

impl Span {
    pub fn new(path: PathBuf, range: Range<u64>, length: u64, reading: Reading) -> Self {
        let compressed = gzip::is_compressed(&path);
        let Range { start, end } = range;
        // How much there is in a compressed file shows only when it is read.
        let end = if compressed { u64::MAX } else { end };
        let (lines_before, first) = (OnceLock::new(), OnceLock::new());
        Self { path, start, end, length, reading, compressed, lines_before, first }
    }

    /// Whether one of its rows but the first, or what follows the last, may begin there.
    pub fn may_begin_a_row(&self, offset: u64) -> bool {
        self.start <= offset && (self.compressed || offset <= self.length)
    }

    /// How many line ends are in front of the span. `None` until they have been counted.
    pub fn lines_before(&self) -> Option<u64> {
        if self.start == 0 { Some(0) } else { self.lines_before.get().copied() }
    }

    /// Counts the line ends in front of the span, by reading all of that. Blocks.
    pub fn count_lines_before(&self) -> io::Result<()> {
        let mut file = Input::open(&self.path, 0, self.length)?.take(self.start);
        let (mut bytes, mut lines, mut seen) = (vec![0; CHUNK_BYTES], 0, 0);
        while seen < self.start {
            match file.read(&mut bytes) {
                Ok(0) => return Err(shorter()),
                Ok(count) => {
                    lines += memchr::memchr_iter(b'\n', &bytes[..count]).count() as u64;
                    seen += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // Whoever else counted has come to the same.
        let _ = self.lines_before.set(lines);
        Ok(())
    }

    /// The first row of the file, if the span has to know it and has come across it.
    #[cfg(feature = "files")]
    pub fn first(&self) -> Option<&[u8]> {
        self.first.get().map(|(row, _)| row.as_slice())
    }

    /// Whether the span has to know the file's first row and does not yet.
    pub fn lacks_first(&self) -> bool {
        self.reading.first != First::Row && self.first.get().is_none()
    }

    pub fn set_first(&self, row: &[u8], offset: u64) {
        // There is one reader of a span, and it asks before.
        let _ = self.first.set((row.to_vec(), offset));
    }

    /// Whether the row at `offset` is the file's header. Blank rows in front of it may fill spans of their own.
    pub fn is_header(&self, offset: u64) -> bool {
        self.reading.first == First::Header && self.first.get().is_some_and(|(_, first)| *first == offset)
    }

    /// Reads the file's first row, if it has one: in front of what is read, or behind blank ones. Blocks.
    pub fn read_first(&self) -> io::Result<()> {
        let mut file = BufReader::new(Input::open(&self.path, 0, self.length)?);
        let (mut offset, mut row) = (0, Vec::new());
        let mut cutter = Cutter::new(self.reading.cut);
        loop {
            let seen = row.len();
            // A mark, a line end and one byte too many.
            file.by_ref().take(ROW_BYTES_MAX as u64 + 5).read_until(b'\n', &mut row)?;
            if row.is_empty() {
                // Rows that are all blank have no first one.
                let is_whole = self.compressed || offset >= self.length;
                return if is_whole { Ok(()) } else { Err(shorter()) };
            }
            let mark = if offset == 0 && row.starts_with(MARK) { MARK.len() } else { 0 };
            if row.len() - mark - usize::from(row.ends_with(b"\n")) > ROW_BYTES_MAX {
                return Err(io::Error::other(format!("its first row has more than {ROW_BYTES_MAX} bytes")));
            }
            // A line end in quotes ends no row, but the end of the file does.
            if row.len() > seen && cutter.find(&row[seen.max(mark)..]).is_none() {
                continue;
            }
            let bytes = without_line_end(&row[mark..]);
            if !self.reading.is_blank(bytes) {
                self.set_first(bytes, offset);
                return Ok(());
            }
            offset += row.len() as u64;
            row.clear();
        }
    }
}

fn without_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Bytes of a span in which rows lie.
#[derive(Debug)]
pub(crate) struct Block {
    pub bytes: Vec<u8>,
    pub span: Arc<Span>,
}
