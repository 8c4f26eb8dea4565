//! What is measured of a run, and how it is printed.

use std::{error::Error, time::Duration};

/// A number that looks random, for each number (xorshift64*, by Vigna).
pub(crate) fn scrambled(x: u64) -> u64 {
    let mut x = x.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    x.wrapping_mul(0x2545_F491_4F6C_DD1D)
}

/// Resident bytes of this process, and the CPU time it has used, in nanoseconds.
pub(crate) fn footprint() -> Result<(u64, u64), Box<dyn Error>> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm.split(' ').nth(1).ok_or("no resident size")?.parse()?;
    Ok((pages * 4096, cpu_time()))
}

#[cfg(unix)]
fn cpu_time() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    u64::try_from(time.tv_sec * 1_000_000_000 + time.tv_nsec).unwrap_or(0)
}

#[cfg(not(unix))]
fn cpu_time() -> u64 {
    0
}

/// The upper one of the two in the middle, if there are two.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

pub(crate) fn report(what: &str, count: u64, elapsed: Duration, mut latencies: Vec<Duration>) {
    latencies.sort_unstable();
    let rate = count as f64 / elapsed.as_secs_f64();
    let median = latencies.get(latencies.len() / 2).copied().unwrap_or_default();
    println!("{what} {rate:.0}/s median {:.3}us", median.as_secs_f64() * 1e6);
}
