//! What is wrong is refused: at once, by type and in words, and nothing hangs.

mod flows;
mod handles;
mod ports;

use std::error::Error;

/// The error and its sources, as somebody reads them.
pub fn text(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

pub fn jobs() -> proscenium::JobRegistry {
    flows::jobs().merge(handles::jobs()).merge(ports::jobs())
}
