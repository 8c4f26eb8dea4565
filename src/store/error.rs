//! Why a history cannot be had.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Why the history in a data folder could not be opened. Nothing in the folder was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// The folder cannot be made, or not be written to.
    #[error("the data folder {} cannot be used: {message}", .folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the operating system said.
        message: String,
    },
    /// Another node keeps its data there.
    #[error(
        "the data folder {} is in use by another node ({holder}): two nodes cannot share one, give this one a folder of its own",
        .folder.display()
    )]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// Which process that is.
        holder: String,
    },
    /// The file that should be the history is none.
    #[error("{} is not a history of proscenium: {message}; move it away, or use another data folder", .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is instead, or lacks.
        message: String,
    },
    /// The history was written in another format.
    #[error(
        "{} has format {found}, and this version of proscenium reads format {known}: use the version that wrote it, or another data folder",
        .path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// The format it says it has.
        found: String,
        /// The format that this version reads.
        known: &'static str,
    },
    /// The history is truncated or damaged.
    #[error("the history {} is damaged: {message}; restore it, or move it away to begin a new one", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
}

pub(super) fn folder(folder: &Path, error: &io::Error) -> HistoryError {
    HistoryError::Folder { folder: folder.to_owned(), message: error.to_string() }
}

pub(super) fn damaged(path: &Path, message: &impl ToString) -> HistoryError {
    HistoryError::Damaged { path: path.to_owned(), message: message.to_string() }
}
