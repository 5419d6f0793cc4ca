//! How much memory this machine has: what a device that lives in it can take.

/// Free memory, bytes; 0 where the system does not say.
pub fn available() -> u64 {
    line("MemAvailable:")
}

/// Most bytes to take: what is free, or where the system does not say, what no machine has.
pub fn room() -> u64 {
    match available() {
        0 => 1 << 40,
        free => free,
    }
}

/// All memory, bytes; 0 where the system does not say.
pub fn all() -> u64 {
    line("MemTotal:")
}

/// A line of the system's account, bytes.
fn line(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or("");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().map_or(0, |kib| kib * 1024)
}
