//! Dates for chat templates: the part of `strftime` that they use, in UTC.

/// Formats seconds since 1970; the error names a directive that is not supported.
pub fn strftime(seconds: u64, format: &str) -> Result<String, String> {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    let (days, time) = (seconds / 86400, seconds % 86400);
    let (year, month, day, of_year) = civil(days);
    let (month_name, day_name) = (MONTHS[month as usize - 1], DAYS[(days % 7) as usize]);
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        // `%-d`: without leading zeros.
        let plain = directive == Some('-');
        if plain {
            directive = chars.next();
        }
        let two = |n: u64| if plain { n.to_string() } else { format!("{n:02}") };
        match directive {
            Some('Y') => out.push_str(&year.to_string()),
            Some('y') => out.push_str(&two(year % 100)),
            Some('m') => out.push_str(&two(month)),
            Some('d') => out.push_str(&two(day)),
            Some('e') => out.push_str(&format!("{day:2}")),
            Some('j') => out.push_str(&if plain { of_year.to_string() } else { format!("{of_year:03}") }),
            Some('H') => out.push_str(&two(time / 3600)),
            Some('I') => out.push_str(&two((time / 3600 + 11) % 12 + 1)),
            Some('M') => out.push_str(&two(time / 60 % 60)),
            Some('S') => out.push_str(&two(time % 60)),
            Some('p') => out.push_str(if time < 43200 { "AM" } else { "PM" }),
            Some('B') => out.push_str(month_name),
            Some('b' | 'h') => out.push_str(&month_name[..3]),
            Some('A') => out.push_str(day_name),
            Some('a') => out.push_str(&day_name[..3]),
            Some('F') => out.push_str(&format!("{year}-{month:02}-{day:02}")),
            Some('T') => out.push_str(&format!("{:02}:{:02}:{:02}", time / 3600, time / 60 % 60, time % 60)),
            Some('Z') => out.push_str("UTC"),
            Some('%') => out.push('%'),
            other => {
                return Err(format!(
                    "strftime does not know %{}",
                    other.map(String::from).unwrap_or_default()
                ));
            }
        }
    }
    Ok(out)
}

/// Year, month, day of the month and day of the year (both from 1) of a number of days since 1970.
fn civil(mut days: u64) -> (u64, u64, u64, u64) {
    let leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    // 400 years have 146097 days; from 1970 on every such span has the same length.
    let mut year = 1970 + days / 146_097 * 400;
    days %= 146_097;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let of_year = days + 1;
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1, of_year)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates() {
        let all = |s| strftime(s, "%F %T %A %a %d %-d %b %B %j %y").unwrap();
        assert_eq!(all(0), "1970-01-01 00:00:00 Thursday Thu 01 1 Jan January 001 70");
        assert_eq!(all(951_782_400), "2000-02-29 00:00:00 Tuesday Tue 29 29 Feb February 060 00");
        assert_eq!(all(1_735_689_599), "2024-12-31 23:59:59 Tuesday Tue 31 31 Dec December 366 24");
        assert_eq!(all(4_107_542_400), "2100-03-01 00:00:00 Monday Mon 01 1 Mar March 060 00");
        assert_eq!(strftime(46_800, "%I %p 100%% %-I").unwrap(), "01 PM 100% 1");
        assert!(strftime(0, "%Q").unwrap_err().contains("%Q"));
        assert!(strftime(0, "%").is_err());
        assert!(strftime(u64::MAX, "%Y").is_ok());
    }
}
