//! Which key a builder was told to use.

use std::path::PathBuf;

use super::key::{Key, KeyError};

/// The key that a node has, or that a client or a worker proves itself with.
#[derive(Default)]
pub(crate) enum WhichKey {
    /// The one that [`Key::find`] finds.
    #[default]
    Found,
    File(PathBuf),
    This(Key),
}

impl WhichKey {
    /// For who has to have one.
    pub(crate) fn read(self) -> Result<Key, KeyError> {
        match self {
            Self::Found => Key::find(),
            Self::File(path) => Key::from_file(path),
            Self::This(key) => Ok(key),
        }
    }

    /// For a node, which makes its key at its first start. With it, the file that it is in, if it is in one.
    pub(crate) fn read_or_make(self) -> Result<(Key, Option<PathBuf>), KeyError> {
        match self {
            Self::Found => Ok((Key::find_or_new()?, Key::file_found())),
            Self::File(path) => Ok((Key::from_file_or_new(&path)?, Some(path))),
            Self::This(key) => Ok((key, None)),
        }
    }
}
