//! Standard output.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
};

use serde_json::Value;

use super::args::Format;

/// Where results are printed. Each line is passed on at once, for whoever reads along.
pub(super) struct Screen {
    out: io::Stdout,
    format: Format,
}

impl Screen {
    pub(super) fn new(format: Format) -> Self {
        Self { out: io::stdout(), format }
    }

    pub(super) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Whether somebody looks at it who can be shown the same place again.
    pub(super) fn is_terminal(&self) -> bool {
        self.format == Format::Human && self.out.is_terminal()
    }

    pub(super) fn line(&mut self, line: fmt::Arguments<'_>) -> io::Result<()> {
        let mut out = self.out.lock();
        writeln!(out, "{line}")?;
        out.flush()
    }

    pub(super) fn json(&mut self, value: &Value) -> io::Result<()> {
        self.line(format_args!("{}", json_text(value)))
    }

    /// For many lines, which are passed on when there are enough of them, or by a flush.
    pub(super) fn buffered(&mut self) -> io::BufWriter<io::StdoutLock<'_>> {
        io::BufWriter::new(self.out.lock())
    }
}

/// One line of JSON. What would steer a terminal, and JSON lets pass, is escaped.
pub(super) fn json_text(value: &Value) -> String {
    let text = value.to_string();
    if !text.contains(|c: char| c.is_control()) {
        return text;
    }
    text.chars().fold(String::with_capacity(text.len()), |mut text, c| {
        if c.is_control() {
            // All of them are in the first plane.
            text.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            text.push(c);
        }
        text
    })
}
