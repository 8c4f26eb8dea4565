//! The key that a node and its clients share.

use std::{
    fmt, fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use hkdf::Hkdf;
use sha2::Sha256;

use crate::{host::fill_secret, link::KeyRole};

/// Bytes of a key at least.
const KEY_BYTES_MIN: usize = 32;

/// Bytes of a key at most.
const KEY_BYTES_MAX: usize = 1024;

/// Bytes of a key's name at most.
const NAME_BYTES_MAX: usize = 256;

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
/// # Keys that may do less
///
/// That key may do everything. A node can have others beside it, each with a name and a [`KeyRole`], made by
/// [`RemoteEnvironment::add_key`](crate::RemoteEnvironment::add_key). Their text is `ROLE:NAME:DIGITS:PIN`: since whoever has
/// a key could play the node to others who have it, such a key goes with the digest of its node's public key. Clients that
/// connect with it always encrypt, and talk to no other node, unless they are told to know it by a certificate instead.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    secret: Vec<u8>,
    named: Option<Named>,
}

/// What goes with a key that was handed out by a node.
#[derive(Clone, PartialEq, Eq)]
struct Named {
    role: KeyRole,
    name: String,
    pin: [u8; 32],
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
        fill_secret(&mut secret).expect("the operating system provides random bytes");
        Self { secret, named: None }
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
        Ok(Self { secret: secret.to_vec(), named: None })
    }

    /// The key that these hexadecimal digits are; white space around them does not count.
    ///
    /// # Errors
    ///
    /// [`KeyError::NotHexadecimal`], [`KeyError::Length`].
    pub fn from_hex(digits: &str) -> Result<Self, KeyError> {
        Self::from_bytes(&secret_of(digits.trim()).ok_or(KeyError::NotHexadecimal)?)
    }

    /// The key of this text: hexadecimal digits, or `ROLE:NAME:DIGITS:PIN` for one that a node handed out; white space
    /// around them does not count.
    ///
    /// # Errors
    ///
    /// [`KeyError::NotHexadecimal`], [`KeyError::Form`], [`KeyError::Length`].
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        if !text.contains(':') {
            return Self::from_hex(text);
        }
        let parts: Vec<&str> = text.split(':').collect();
        let [role, name, digits, pin] = parts[..] else { return Err(KeyError::Form) };
        let role = KeyRole::of_word(role).filter(|role| *role != KeyRole::Admin).ok_or(KeyError::Form)?;
        let pin = secret_of(pin).and_then(|pin| pin.try_into().ok()).ok_or(KeyError::Form)?;
        if !is_name(name) {
            return Err(KeyError::Form);
        }
        Ok(Self { named: Some(Named { role, name: name.to_owned(), pin }), ..Self::from_hex(digits)? })
    }

    /// The text of the key, which [`parse`](Self::parse) reads. It is the secret itself: whoever reads it has the key.
    #[must_use]
    pub fn reveal(&self) -> String {
        let digits = digits_of(&self.secret);
        match &self.named {
            None => digits,
            Some(Named { role, name, pin }) => format!("{role}:{name}:{digits}:{}", digits_of(pin)),
        }
    }

    /// What those who have it may do.
    #[must_use]
    pub fn role(&self) -> KeyRole {
        self.named.as_ref().map_or(KeyRole::Admin, |named| named.role)
    }

    /// What the node calls it that handed it out.
    pub(super) fn name(&self) -> Option<&str> {
        self.named.as_ref().map(|named| named.name.as_str())
    }

    /// As a node hands it out.
    pub(crate) fn handed_out(self, role: KeyRole, name: &str, pin: [u8; 32]) -> Self {
        Self { named: Some(Named { role, name: name.to_owned(), pin }), ..self }
    }

    /// The digest of the public key of the one node that it is for.
    pub(super) fn pin(&self) -> Option<[u8; 32]> {
        self.named.as_ref().map(|named| named.pin)
    }

    /// The key in `path`, which nobody but its owner may read or write.
    ///
    /// # Errors
    ///
    /// [`KeyError::NotFound`], [`KeyError::Exposed`], [`KeyError::Unreadable`], [`KeyError::Malformed`].
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, KeyError> {
        let path = path.as_ref();
        let unreadable = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => KeyError::NotFound { path: path.to_owned() },
            _ => KeyError::Unreadable { path: path.to_owned(), message: error.to_string() },
        };
        let text = fs::read_to_string(path).map_err(unreadable)?;
        if is_exposed(path) {
            return Err(KeyError::Exposed { path: path.to_owned() });
        }
        Self::parse(&text).map_err(|fault| fault.of(path.display()))
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
        writeln!(file, "{}", self.reveal())?;
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
        // One that is set and empty is a mistake: to look on would be to take another key than the one meant.
        let variable_set = |name: &str| match variable(name) {
            Some(value) if value.trim().is_empty() => Err(KeyError::EmptyVariable { variable: name.to_owned() }),
            value => Ok(value),
        };
        if let Some(digits) = variable_set(KEY_VARIABLE)? {
            return Self::parse(&digits).map_err(|fault| fault.of(KEY_VARIABLE));
        }
        let file = variable_set(KEY_FILE_VARIABLE)?.map(PathBuf::from).or_else(|| default_file(variable));
        read(file.ok_or(KeyError::NoHome)?)
    }

    /// The file that [`find`](Self::find) reads; none if the key is in a variable.
    pub(crate) fn file_found() -> Option<PathBuf> {
        let variable = |name: &str| std::env::var(name).ok();
        if variable(KEY_VARIABLE).is_some() {
            return None;
        }
        variable(KEY_FILE_VARIABLE).map(PathBuf::from).or_else(Self::default_file)
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
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

/// The bytes of pairs of hexadecimal digits.
pub(super) fn secret_of(digits: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let secret = pairs.iter().map(|[high, low]| Some(digit(*high)? * 16 + digit(*low)?)).collect();
    if rest.is_empty() { secret } else { None }
}

pub(super) fn digits_of(secret: &[u8]) -> String {
    secret.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a key can be called so.
pub(super) fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_plain)
}

/// Whether others than its owner may read or write a file.
#[cfg(unix)]
pub(super) fn is_exposed(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
pub(super) fn is_exposed(_: &Path) -> bool {
    false
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
    /// It has parts, and they are not those of a key that a node handed out.
    #[error("the key is neither hexadecimal digits nor of the form ROLE:NAME:DIGITS:PIN")]
    Form,
    /// What is in a file or a variable is no key.
    #[error("the key in {place} is malformed: {fault}")]
    Malformed {
        /// The file, or the variable.
        place: String,
        /// What is wrong: [`Length`](Self::Length), [`NotHexadecimal`](Self::NotHexadecimal) or [`Form`](Self::Form).
        fault: Box<Self>,
    },
    /// A variable that is looked at for a key is set, and empty.
    #[error("the variable {variable} is set, and empty: give it a value, or unset it")]
    EmptyVariable {
        /// Its name.
        variable: String,
    },
    /// The key of a node may do everything, and this one was handed out by a node, to do less.
    #[error("a key that a node handed out, to do less than everything, is no key for a node")]
    HandedOut,
    /// The named keys of a node are not to be read.
    #[error("the node's named keys cannot be read: {message}")]
    Ring {
        /// What was wrong.
        message: String,
    },
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

impl KeyError {
    /// With the place that the text came from.
    fn of(self, place: impl fmt::Display) -> Self {
        Self::Malformed { place: place.to_string(), fault: Box::new(self) }
    }
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
    fn a_key_that_was_handed_out_is_read_from_its_text() {
        let (secret, pin) = ("0a".repeat(32), "0b".repeat(32));
        let text = format!("reader:dash-board_1.x:{secret}:{pin}");
        let key = Key::parse(&format!(" {text}\n")).unwrap();
        assert_eq!((key.role(), key.pin(), key.reveal()), (KeyRole::Reader, Some([11; 32]), text.clone()));
        assert_eq!(format!("{key:?}"), "Key { .. }");
        let plain = Key::parse(&secret).unwrap();
        assert_eq!((plain.role(), plain.pin(), plain.id()), (KeyRole::Admin, None, key.id()));
        for wrong in [
            format!("admin:a:{secret}:{pin}"),
            format!("writer:a:{secret}:{pin}"),
            format!("reader::{secret}:{pin}"),
            format!("reader:a b:{secret}:{pin}"),
            format!("reader:a:{secret}"),
            format!("reader:a:{secret}:{pin}:1"),
            format!("reader:a:{secret}:{}", &pin[2..]),
        ] {
            assert_eq!(Key::parse(&wrong), Err(KeyError::Form), "{wrong}");
        }
        assert_eq!(Key::parse(&format!("reader:a:0a:{pin}")), Err(KeyError::Length { bytes: 1 }));
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
        for variable in [KEY_VARIABLE, KEY_FILE_VARIABLE] {
            let empty = KeyError::EmptyVariable { variable: variable.to_owned() };
            assert_eq!(look(&[("HOME", &home), (variable, "")]), Err(empty));
        }
        let malformed = look(&[("HOME", &home), (KEY_VARIABLE, "12")]).unwrap_err();
        assert_eq!(malformed, KeyError::Length { bytes: 1 }.of("PROSCENIUM_KEY"));
    }
}
