//! Files as they lie on the disk, plain or compressed. The feature `files` brings the compression; without it whoever
//! meets a compressed file is told so.

use std::{
    ffi::OsStr,
    fmt::Debug,
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
};

/// What fails the reading of a file that has not as many bytes as it had.
pub(super) fn shorter() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it has become shorter")
}

/// Whether a file is compressed, which its name says.
pub(super) fn is_compressed(path: &Path) -> bool {
    path.extension() == Some(OsStr::new("gz"))
}

/// What a file that is compressed is refused with, where it cannot be read or written.
pub(super) fn supported(path: &Path) -> io::Result<()> {
    if cfg!(feature = "files") || !is_compressed(path) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::Unsupported, "it is compressed, which takes the feature `files`"))
}

/// A file being read.
#[derive(Debug)]
pub(super) enum Input {
    Plain(File),
    #[cfg(feature = "files")]
    Gzip(Box<flate2::bufread::MultiGzDecoder<io::BufReader<io::Take<File>>>>),
}

impl Input {
    /// Opens the file and goes to `offset`. A compressed one is decompressed up to there; of it no more than `length` is
    /// read.
    pub fn open(path: &Path, offset: u64, length: u64) -> io::Result<Self> {
        supported(path)?;
        let mut file = File::open(path)?;
        #[cfg(feature = "files")]
        if is_compressed(path) {
            let file = io::BufReader::with_capacity(64 << 10, file.take(length));
            let mut input = Self::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(file)));
            let passed = io::copy(&mut Read::by_ref(&mut input).take(offset), &mut io::sink())?;
            let is_there = passed == offset;
            return if is_there { Ok(input) } else { Err(shorter()) };
        }
        let _ = length;
        file.seek(SeekFrom::Start(offset))?;
        Ok(Self::Plain(file))
    }
}

impl Read for Input {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read(into),
            #[cfg(feature = "files")]
            Self::Gzip(decoder) => decoder.read(into).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "its compressed data end too early"),
                _ => error,
            }),
        }
    }
}

/// Where rows are written to.
pub(super) trait Writer: Write + Send + Debug {
    /// Writes what belongs behind the last row. A writer that is dropped before leaves it out.
    fn finish(&mut self) -> io::Result<()>;
}

impl Writer for File {
    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Writer for io::Stdout {
    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes the file at `path`, compressed if its name says so.
pub(super) fn create(path: &Path) -> io::Result<Box<dyn Writer>> {
    supported(path)?;
    let file = File::create(path)?;
    #[cfg(feature = "files")]
    if is_compressed(path) {
        return Ok(Box::new(packed::Packed::new(file)));
    }
    Ok(Box::new(file))
}

#[cfg(feature = "files")]
mod packed {
    use super::*;
    use flate2::{Compression, write::GzEncoder};

    /// A file that is compressed while it is written.
    #[derive(Debug)]
    pub(super) struct Packed(GzEncoder<Gate>);

    /// The file, until nothing more may be written to it.
    #[derive(Debug)]
    struct Gate(Option<File>);

    impl Packed {
        pub fn new(file: File) -> Self {
            Self(GzEncoder::new(Gate(Some(file)), Compression::default()))
        }
    }

    impl Write for Packed {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            self.0.flush()
        }
    }

    impl Writer for Packed {
        fn finish(&mut self) -> io::Result<()> {
            self.0.try_finish()
        }
    }

    impl Drop for Packed {
        fn drop(&mut self) {
            // The encoder would write the end of the data when it is dropped, so that what was cut off looked whole.
            self.0.get_mut().0 = None;
        }
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.as_mut().ok_or(io::ErrorKind::BrokenPipe)?.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            self.0.as_mut().ok_or(io::ErrorKind::BrokenPipe)?.flush()
        }
    }
}
