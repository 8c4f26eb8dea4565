//! What a peer may send as items, for the fuzz targets.

use std::fmt::Debug;

use serde::{Serialize, de::DeserializeOwned};

use super::columns::{Run, TypedItems, decode_run};
use crate::schema::TypeDescription;

/// A run of items is refused or read; what was read is written and read again as the same.
pub fn runs(data: &[u8]) {
    fn read<T: Serialize + DeserializeOwned + Debug + 'static>(bytes: &[u8], items: u64) {
        let decode = TypedItems::<T>::untrusted();
        let Ok(read) = decode_run(&decode, bytes, items) else { return };
        assert_eq!(read.len() as u64, items);
        let mut run = Run::new(&TypeDescription::of::<T>(), read.len());
        read.iter().for_each(|item| run.push(item).expect("what was read can be written"));
        let (count, written) = run.take();
        let again = decode_run(&decode, &written, count).expect("what was written can be read");
        assert_eq!(format!("{read:?}"), format!("{again:?}"));
    }
    let [which, low, high, bytes @ ..] = data else { return };
    let items = u16::from_le_bytes([*low, *high]).into();
    match which % 4 {
        0 => read::<u64>(bytes, items),
        1 => read::<String>(bytes, items),
        2 => read::<(i32, Option<(char, Option<String>)>, bool)>(bytes, items),
        _ => read::<Vec<u8>>(bytes, items),
    }
}
