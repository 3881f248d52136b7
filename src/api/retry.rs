//! When to send a request again, and after how long (API.md "Wire").

use std::time::{Duration, SystemTime};

use reqwest::header::HeaderMap;

/// How often a request is repeated.
pub(super) const RETRIES: u32 = 2;

const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(8);

/// Who asks for more than a day's wait asks for nothing that a clock here has to tell.
const LONGEST_ASKED: Duration = Duration::from_secs(24 * 3600);

/// The wait that a reply asks for: `retry-after-ms`, else `Retry-After` in seconds or as a date. At most a day.
pub(super) fn asked(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    told(headers, now).map(|wait| wait.min(LONGEST_ASKED))
}

fn told(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let number = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
    let wait = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST_ASKED);
    if let Some(milliseconds) = text("retry-after-ms").and_then(number) {
        return Some(wait(milliseconds / 1000.0));
    }
    let after = text("retry-after")?;
    if let Some(seconds) = number(after) {
        return Some(wait(seconds));
    }
    let date = httpdate::parse_http_date(after).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// The wait before the repetition number `attempt` (from 0), less up to a quarter of it by `jitter` in 0..1.
pub(super) fn backoff(attempt: u32, jitter: f64) -> Duration {
    let wait = FIRST_WAIT.saturating_mul(2_u32.saturating_pow(attempt)).min(LONGEST_WAIT);
    wait.mul_f64(1.0 - 0.25 * jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn the_server_sets_the_wait_in_three_ways() {
        let now = httpdate::parse_http_date("Tue, 24 Nov 2026 12:00:00 GMT").unwrap();
        let wait = |pairs: &[(&'static str, &str)]| asked(&headers(pairs), now);
        assert_eq!(wait(&[]), None);
        assert_eq!(
            wait(&[("retry-after", "2"), ("retry-after-ms", "150")]),
            Some(Duration::from_millis(150))
        );
        assert_eq!(wait(&[("retry-after", "1.5")]), Some(Duration::from_millis(1500)));
        assert_eq!(wait(&[("retry-after", "Tue, 24 Nov 2026 12:00:07 GMT")]), Some(Duration::from_secs(7)));
        assert_eq!(wait(&[("retry-after", "Tue, 24 Nov 2026 11:00:00 GMT")]), Some(Duration::ZERO));
        assert_eq!(wait(&[("retry-after", "soon")]), None);
        assert_eq!(wait(&[("retry-after", "-3")]), None);
        for endless in ["9999999999999999999", "1e300", "Fri, 31 Dec 9999 23:59:59 GMT"] {
            assert_eq!(wait(&[("retry-after", endless)]), Some(LONGEST_ASKED));
        }
    }

    #[test]
    fn backoff_doubles_up_to_eight_seconds_less_a_quarter() {
        let millis = |attempt, jitter| backoff(attempt, jitter).as_millis();
        assert_eq!([millis(0, 0.0), millis(1, 0.0), millis(2, 0.0), millis(9, 0.0)], [500, 1000, 2000, 8000]);
        assert_eq!(millis(0, 1.0), 375);
    }
}
