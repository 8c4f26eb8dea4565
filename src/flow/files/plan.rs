//! Which files there are, and which instance reads what of them.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    dataplane::error::TaskError,
    flow::files::{
        cut::Cut,
        gzip,
        span::{Reading, Span},
        unreadable,
    },
};

/// What one instance reads of a [`TextFile`](crate::TextFile), of [`TextFiles`](crate::TextFiles), of JSON lines or CSV:
/// ranges of files, one after another, by their paths and their lengths when the splits were made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSplit(Vec<Stretch>);

/// A range of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stretch {
    /// Not a `PathBuf`, which can be encoded only if it is text.
    path: OsString,
    range: Range<u64>,
    /// The whole file's.
    length: u64,
}

impl FileSplit {
    pub(super) fn spans(self, reading: Reading) -> Vec<Arc<Span>> {
        let span = |Stretch { path, range, length }| Arc::new(Span::new(path.into(), range, length, reading));
        self.0.into_iter().map(span).collect()
    }
}

/// A file that is to be read, and its length when the splits were made.
#[derive(Debug)]
pub(super) struct Found {
    pub path: PathBuf,
    pub length: u64,
}

/// The file at `path`, or those in the folder at `path`.
pub(super) fn find(path: &Path) -> Result<Vec<Found>, TaskError> {
    let metadata = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
    if !metadata.is_dir() {
        if !metadata.is_file() {
            return Err(TaskError::new(format!("`{}` is neither a regular file nor a folder", path.display())));
        }
        return Ok(vec![check(path.to_owned(), metadata.len())?]);
    }
    let mut paths = fs::read_dir(path)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>())
        .map_err(|error| unreadable(path, &error))?;
    paths.retain(|path| path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b".")));
    paths.sort_unstable();
    let mut found = Vec::new();
    for path in paths {
        let metadata = fs::metadata(&path).map_err(|error| unreadable(&path, &error))?;
        if metadata.is_file() {
            found.push(check(path, metadata.len())?);
        }
    }
    Ok(found)
}

/// Opened once, so that a file that cannot be read is known before anything runs.
fn check(path: PathBuf, length: u64) -> Result<Found, TaskError> {
    match gzip::supported(&path).and_then(|()| File::open(&path)) {
        Ok(_) => Ok(Found { path, length }),
        Err(error) => Err(unreadable(&path, &error)),
    }
}

/// Deals the files out to at most `parts` instances: first those that cannot be split, the largest first, each to the
/// instance that has least; then ranges of the others, such that all come to have the same.
pub(super) fn deal(found: &[Found], cut: Cut, parts: usize) -> Vec<FileSplit> {
    let splits = |file: &Found| cut.splits() && !gzip::is_compressed(&file.path);
    let mut loads = vec![0_u64; parts];
    let mut dealt: Vec<Vec<(usize, u64, u64)>> = vec![Vec::new(); parts];

    let mut whole: Vec<usize> = (0..found.len()).filter(|&file| !splits(&found[file])).collect();
    whole.sort_by_key(|&file| std::cmp::Reverse(found[file].length));
    for file in whole {
        let length = found[file].length;
        // Nothing is in an empty file, but for a compressed one, which is damaged.
        if let Some(least) = (0..parts).min_by_key(|&part| loads[part])
            && (length > 0 || gzip::is_compressed(&found[file].path))
        {
            loads[least] += length;
            dealt[least].push((file, 0, length));
        }
    }

    let mut ranges =
        found.iter().enumerate().filter(|(_, file)| splits(file)).map(|(file, found)| (file, found.length));
    let bytes = ranges.clone().map(|(_, length)| length).sum();
    let (mut file, mut length, mut start) = (0, 0, 0);
    for (part, mut share) in shares(&loads, bytes).into_iter().enumerate() {
        while share > 0 {
            if start == length {
                let Some(next) = ranges.next() else { break };
                ((file, length), start) = (next, 0);
                continue;
            }
            let end = length.min(start + share);
            dealt[part].push((file, start, end));
            share -= end - start;
            start = end;
        }
    }

    let stretch = |(file, start, end): (usize, u64, u64)| {
        let Found { path, length } = &found[file];
        Stretch { path: path.clone().into(), range: start..end, length: *length }
    };
    let in_order = |mut ranges: Vec<_>| {
        ranges.sort_unstable();
        FileSplit(ranges.into_iter().map(stretch).collect())
    };
    dealt.into_iter().filter(|ranges| !ranges.is_empty()).map(in_order).collect()
}

/// How much of `bytes` each gets that already has `loads`, such that those with least come to have the same.
fn shares(loads: &[u64], bytes: u64) -> Vec<u64> {
    let mut order: Vec<usize> = (0..loads.len()).collect();
    order.sort_by_key(|&part| loads[part]);
    let mut total = u128::from(bytes) + loads.iter().map(|&load| u128::from(load)).sum::<u128>();
    // Whoever has more than the mean of those that remain gets nothing.
    while let [.., most] = order[..]
        && order.len() > 1
        && u128::from(loads[most]) * order.len() as u128 >= total
    {
        total -= u128::from(loads[most]);
        order.pop();
    }
    order.sort_unstable();
    let count = order.len() as u128;
    let cut = |place: usize| (total * place as u128 / count) as u64;
    let mut shares = vec![0; loads.len()];
    for (place, &part) in order.iter().enumerate() {
        shares[part] = cut(place + 1) - cut(place) - loads[part];
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    fn dealt(files: &[(&str, u64)], cut: Cut, parts: usize) -> Vec<Vec<(String, std::ops::Range<u64>)>> {
        let found: Vec<_> = files.iter().map(|(name, length)| Found { path: name.into(), length: *length }).collect();
        let shown = |stretch: Stretch| (stretch.path.into_string().expect("the name is text"), stretch.range);
        deal(&found, cut, parts).into_iter().map(|split| split.0.into_iter().map(shown).collect()).collect()
    }

    #[test]
    fn those_that_have_less_get_more_and_all_is_given_out() {
        assert_eq!(shares(&[0, 0, 0], 10), [3, 3, 4]);
        assert_eq!(shares(&[9, 1, 2], 5), [0, 3, 2]);
        assert_eq!(shares(&[100, 0], 7), [0, 7]);
        assert_eq!(shares(&[5, 5], 0), [0, 0]);
        assert_eq!(shares(&[4, 4, 4], 1), [0, 0, 1]);
    }

    #[test]
    fn each_instance_gets_about_equal_bytes_in_order_of_name() {
        let files = [("a", 10), ("b", 0), ("c", 20), ("d.gz", 12)];
        let part = |name: &str, range| (name.to_owned(), range);
        let lines = dealt(&files, Cut::Lines, 3);
        assert_eq!(
            lines,
            [
                vec![part("a", 0..2), part("d.gz", 0..12)],
                vec![part("a", 2..10), part("c", 0..6)],
                vec![part("c", 6..20)],
            ]
        );
        let records = dealt(&files, Cut::Records { delimiter: b',' }, 2);
        assert_eq!(records, [vec![part("c", 0..20)], vec![part("a", 0..10), part("d.gz", 0..12)]]);
        assert_eq!(dealt(&files, Cut::Records { delimiter: b',' }, 9).len(), 3);
        assert!(dealt(&[], Cut::Lines, 2).is_empty());
    }
}
