//! The key that a node and its clients share.

use std::{
    fmt, fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use hkdf::Hkdf;
use sha2::Sha256;

/// Bytes of a key at least.
const KEY_BYTES_MIN: usize = 32;

/// Bytes of a key at most.
const KEY_BYTES_MAX: usize = 1024;

/// The key itself, as hexadecimal digits.
const KEY_VARIABLE: &str = "PROSCENIUM_KEY";

/// The file it is in.
const KEY_FILE_VARIABLE: &str = "PROSCENIUM_KEY_FILE";

/// The secret that a node and its clients share, and by which each proves itself to the other; on loopback too.
///
/// Who has it can run the node's jobs with any parameters: keep it as you would a password. In a file or a variable it
/// is written as hexadecimal digits.
///
/// [`find`](Self::find) looks, in this order, at the variable `PROSCENIUM_KEY` (the key), the variable
/// `PROSCENIUM_KEY_FILE` (the file it is in), and the [default file](Self::default_file), which a node makes at its first
/// start; so a client on the same machine, under the same user, finds the node's key by itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    secret: Vec<u8>,
}

impl Key {
    /// A new key of 32 random bytes.
    ///
    /// # Panics
    ///
    /// Panics if the operating system has no source of random bytes.
    #[must_use]
    pub fn generate() -> Self {
        let mut secret = vec![0; KEY_BYTES_MIN];
        getrandom::fill(&mut secret).expect("the operating system provides random bytes");
        Self { secret }
    }

    /// The key of these bytes: at least 32 and at most 1,024, which should be random.
    ///
    /// # Errors
    ///
    /// [`KeyError::Length`].
    pub fn from_bytes(secret: &[u8]) -> Result<Self, KeyError> {
        if !(KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&secret.len()) {
            return Err(KeyError::Length { bytes: secret.len() });
        }
        Ok(Self { secret: secret.to_vec() })
    }

    /// The key that these hexadecimal digits are; white space around them does not count.
    ///
    /// # Errors
    ///
    /// [`KeyError::NotHexadecimal`], [`KeyError::Length`].
    pub fn from_hex(digits: &str) -> Result<Self, KeyError> {
        let digits = digits.trim().as_bytes();
        let (pairs, rest) = digits.as_chunks::<2>();
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let secret: Option<Vec<u8>> = pairs.iter().map(|[high, low]| Some(digit(*high)? * 16 + digit(*low)?)).collect();
        match secret {
            Some(secret) if rest.is_empty() => Self::from_bytes(&secret),
            _ => Err(KeyError::NotHexadecimal),
        }
    }

    /// The key in `path`, which nobody but its owner may read or write.
    ///
    /// # Errors
    ///
    /// [`KeyError::NotFound`], [`KeyError::Exposed`], [`KeyError::Unreadable`], or what is wrong with its text.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, KeyError> {
        let path = path.as_ref();
        let unreadable = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => KeyError::NotFound { path: path.to_owned() },
            _ => KeyError::Unreadable { path: path.to_owned(), message: error.to_string() },
        };
        let text = fs::read_to_string(path).map_err(unreadable)?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            if fs::metadata(path).map_err(unreadable)?.permissions().mode() & 0o077 != 0 {
                return Err(KeyError::Exposed { path: path.to_owned() });
            }
        }
        Self::from_hex(&text)
    }

    /// The key in `path`; if there is no such file, it is made, with a new key that only its owner may read. Of two that
    /// make it at the same time, both get the key of one.
    ///
    /// # Errors
    ///
    /// As [`from_file`](Self::from_file), and [`KeyError::Unwritable`].
    pub fn from_file_or_new(path: impl AsRef<Path>) -> Result<Self, KeyError> {
        let path = path.as_ref();
        match Self::from_file(path) {
            Err(KeyError::NotFound { .. }) => {}
            found => return found,
        }
        Self::generate()
            .write_new(path)
            .map_err(|error| KeyError::Unwritable { path: path.to_owned(), message: error.to_string() })?;
        Self::from_file(path)
    }

    fn write_new(&self, path: &Path) -> io::Result<()> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(folder)?;
        // Made with mode 0600, and given its name only once it is whole.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        let digits: String = self.secret.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(file, "{digits}")?;
        file.as_file().sync_all()?;
        match file.persist_noclobber(path) {
            Ok(_) => Ok(()),
            // Somebody else was faster, and that key counts.
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error.error),
        }
    }

    /// The key that this user's nodes and clients have in common; see the type's documentation for where it is looked
    /// for.
    ///
    /// # Errors
    ///
    /// [`KeyError`]; a missing file is told with its path.
    pub fn find() -> Result<Self, KeyError> {
        Self::find_in(&|name| std::env::var(name).ok(), Self::from_file)
    }

    /// As [`find`](Self::find), but makes the file if there is none.
    ///
    /// # Errors
    ///
    /// [`KeyError`].
    pub fn find_or_new() -> Result<Self, KeyError> {
        Self::find_in(&|name| std::env::var(name).ok(), Self::from_file_or_new)
    }

    fn find_in(
        variable: &dyn Fn(&str) -> Option<String>,
        read: fn(PathBuf) -> Result<Self, KeyError>,
    ) -> Result<Self, KeyError> {
        if let Some(digits) = variable(KEY_VARIABLE) {
            return Self::from_hex(&digits);
        }
        let file = variable(KEY_FILE_VARIABLE).map(PathBuf::from).or_else(|| default_file(variable));
        read(file.ok_or(KeyError::NoHome)?)
    }

    /// Where the key is looked for if nothing else is said: `$PROSCENIUM_HOME/key`, else
    /// `$XDG_DATA_HOME/proscenium/key`, else `$HOME/.local/share/proscenium/key`.
    #[must_use]
    pub fn default_file() -> Option<PathBuf> {
        default_file(&|name| std::env::var(name).ok())
    }

    pub(super) fn secret(&self) -> &[u8] {
        &self.secret
    }

    /// By which a node recognises it among its keys. It tells nothing of the secret.
    pub(super) fn id(&self) -> KeyId {
        let mut id = [0; KeyId::BYTES];
        Hkdf::<Sha256>::new(None, &self.secret)
            .expand(b"proscenium key id", &mut id)
            .expect("16 bytes are less than HKDF can give");
        KeyId(id)
    }
}

/// Which key it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct KeyId([u8; Self::BYTES]);

impl KeyId {
    pub(super) const BYTES: usize = 16;

    pub(super) fn of_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    pub(super) fn to_bytes(self) -> [u8; Self::BYTES] {
        self.0
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn default_file(variable: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let folder = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    folder("PROSCENIUM_HOME")
        .or_else(|| folder("XDG_DATA_HOME").map(|data| data.join("proscenium")))
        .or_else(|| folder("HOME").map(|home| home.join(".local/share/proscenium")))
        .map(|folder| folder.join("key"))
}

/// Shows nothing of the secret.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").finish_non_exhaustive()
    }
}

/// Why there is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// It is too short to be safe, or too long to be a key.
    #[error("a key of {bytes} bytes: it has to have {KEY_BYTES_MIN} to {KEY_BYTES_MAX}")]
    Length {
        /// Its length.
        bytes: usize,
    },
    /// Its text is not made of pairs of hexadecimal digits.
    #[error("the key is not written as pairs of hexadecimal digits")]
    NotHexadecimal,
    /// The file does not exist.
    #[error("there is no key in {}: a node makes it at its first start; copy it from there, or set {KEY_VARIABLE} or {KEY_FILE_VARIABLE}", .path.display())]
    NotFound {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Others than its owner may read or write the file.
    #[error("others may read or write {}: run `chmod 600` on it", .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("the key in {} cannot be read: {message}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        message: String,
    },
    /// The file cannot be made.
    #[error("a key cannot be written to {}: {message}", .path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        message: String,
    },
    /// No variable says where the user's files are.
    #[error("there is no place to look for a key: set {KEY_VARIABLE}, {KEY_FILE_VARIABLE} or HOME")]
    NoHome,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_from_what_was_written_and_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/key");
        assert_eq!(Key::from_file(&path), Err(KeyError::NotFound { path: path.clone() }));
        let key = Key::from_file_or_new(&path).unwrap();
        assert_eq!(Key::from_file_or_new(&path).as_ref(), Ok(&key));
        assert_eq!(Key::from_file(&path), Ok(key.clone()));
        Key::generate().write_new(&path).unwrap();
        assert_eq!(Key::from_file(&path), Ok(key), "a key that is there is not replaced");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_can_read_is_refused_and_a_new_one_is_not() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        Key::from_file_or_new(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = Key::from_file(&path).unwrap_err();
        assert!(matches!(error, KeyError::Exposed { .. }) && error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn short_keys_and_other_texts_are_refused_and_never_shown() {
        assert_eq!(Key::from_bytes(&[1; 31]), Err(KeyError::Length { bytes: 31 }));
        assert_eq!(Key::from_hex(&"ab".repeat(2000)), Err(KeyError::Length { bytes: 2000 }));
        for text in ["", "xy", &"g0".repeat(32), &"a".repeat(65), "ää"] {
            assert!(Key::from_hex(text).is_err(), "{text}");
        }
        let key = Key::from_hex(&format!(" {}\n", "0aF1".repeat(16))).unwrap();
        assert_eq!(key.secret()[..2], [0x0a, 0xf1]);
        assert_eq!(format!("{key:?}"), "Key { .. }");
    }

    #[test]
    fn the_variables_are_looked_at_in_the_order_that_is_documented() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap().to_owned();
        let by_home = Key::from_file_or_new(folder.path().join(".local/share/proscenium/key")).unwrap();
        let by_file = Key::from_file_or_new(folder.path().join("other")).unwrap();
        let digits = "12".repeat(32);
        let look = |known: &[(&str, &str)]| {
            let known: Vec<(String, String)> = known.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            let variable = move |name: &str| known.iter().find(|(known, _)| known == name).map(|(_, v)| v.clone());
            Key::find_in(&variable, Key::from_file)
        };
        let file = folder.path().join("other").to_str().unwrap().to_owned();
        assert_eq!(look(&[("HOME", &home)]), Ok(by_home));
        assert_eq!(look(&[("HOME", &home), (KEY_FILE_VARIABLE, &file)]), Ok(by_file));
        assert_eq!(
            look(&[("HOME", &home), (KEY_FILE_VARIABLE, &file), (KEY_VARIABLE, &digits)]),
            Key::from_hex(&digits)
        );
        assert_eq!(look(&[]), Err(KeyError::NoHome));
        assert!(matches!(look(&[("PROSCENIUM_HOME", &home)]), Err(KeyError::NotFound { .. })));
    }
}
