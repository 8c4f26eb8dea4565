//! Where rows end.

const QUOTE: u8 = b'"';

/// What ends a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Every line end.
    Lines,
    /// The line ends outside of quoted fields. A field is quoted if its first byte is a quote, and the quote ends where
    /// one quote alone follows: as `csv_core` has it, which reads the records afterwards.
    #[cfg_attr(not(any(feature = "files", test)), expect(dead_code, reason = "of CSV"))]
    Records { delimiter: u8 },
}

impl Cut {
    /// Whether reading can begin in the middle of a file.
    pub fn splits(self) -> bool {
        self == Self::Lines
    }
}

/// Finds the ends of rows in bytes that come piece by piece.
#[derive(Debug)]
pub(super) struct Cutter {
    cut: Cut,
    at: At,
    /// Line ends inside the row that is being looked at.
    pub inner_lines: u64,
}

/// Where in a record the cutter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    FieldStart,
    Field,
    Quoted,
    /// Behind a quote in a quoted field: either the first of two, or the end of the quoted part.
    Quote,
}

impl Cutter {
    pub fn new(cut: Cut) -> Self {
        Self { cut, at: At::FieldStart, inner_lines: 0 }
    }

    /// The place in `bytes` of the line end that ends the row; `None` means that all of them belong to it.
    pub fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        let Cut::Records { delimiter } = self.cut else { return memchr::memchr(b'\n', bytes) };
        let mut place = 0;
        while let Some(&byte) = bytes.get(place) {
            match self.at {
                At::FieldStart | At::Field => {
                    let from = place;
                    place += memchr::memchr2(QUOTE, b'\n', &bytes[from..]).unwrap_or(bytes.len() - from);
                    let at_field_start =
                        if place == from { self.at == At::FieldStart } else { bytes[place - 1] == delimiter };
                    self.at = match bytes.get(place) {
                        Some(b'\n') => return Some(self.end_row(place)),
                        Some(_) if at_field_start => At::Quoted,
                        None if at_field_start => At::FieldStart,
                        _ => At::Field,
                    };
                }
                At::Quoted => {
                    place += memchr::memchr2(QUOTE, b'\n', &bytes[place..]).unwrap_or(bytes.len() - place);
                    match bytes.get(place) {
                        Some(b'\n') => self.inner_lines += 1,
                        Some(_) => self.at = At::Quote,
                        None => {}
                    }
                }
                At::Quote if byte == QUOTE => self.at = At::Quoted,
                At::Quote if byte == b'\n' => return Some(self.end_row(place)),
                At::Quote if byte == delimiter => self.at = At::FieldStart,
                At::Quote => self.at = At::Field,
            }
            place += 1;
        }
        None
    }

    fn end_row(&mut self, place: usize) -> usize {
        self.at = At::FieldStart;
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of `text`, given to the cutter `step` bytes at a time.
    fn rows(cut: Cut, text: &str, step: usize) -> Vec<String> {
        let (mut cutter, mut rows, mut row) = (Cutter::new(cut), Vec::new(), Vec::new());
        for mut piece in text.as_bytes().chunks(step) {
            while let Some(end) = cutter.find(piece) {
                row.extend_from_slice(&piece[..end]);
                rows.push(String::from_utf8(std::mem::take(&mut row)).unwrap());
                piece = &piece[end + 1..];
            }
            row.extend_from_slice(piece);
        }
        rows.push(String::from_utf8(row).unwrap());
        rows
    }

    #[test]
    fn records_end_outside_of_quotes_however_the_bytes_come() {
        let cases: [(&str, &[&str]); 7] = [
            ("a,b\nc", &["a,b", "c"]),
            ("\"a\nb\",c\nd", &["\"a\nb\",c", "d"]),
            ("\"a\"\"\nb\"\nc", &["\"a\"\"\nb\"", "c"]),
            ("a\"b\nc\"d\ne", &["a\"b", "c\"d", "e"]),
            ("\"a\"b\"\nc", &["\"a\"b\"", "c"]),
            (",\"\n\"\n\n", &[",\"\n\"", "", ""]),
            ("\"never closed\n", &["\"never closed\n"]),
        ];
        for (text, expected) in cases {
            for step in 1..=text.len() {
                assert_eq!(rows(Cut::Records { delimiter: b',' }, text, step), expected, "{text:?} by {step}");
            }
        }
    }

    #[test]
    fn lines_end_at_every_line_end() {
        assert_eq!(rows(Cut::Lines, "\"a\nb\"\n", 2), ["\"a", "b\"", ""]);
    }
}
