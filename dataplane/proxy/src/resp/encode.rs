//! Writes RESP: the few shapes that the proxy itself answers with.

/// Appends a number in decimal.
pub fn decimal(out: &mut Vec<u8>, value: i64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = value.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        at -= 1;
        digits[at] = b'-';
    }
    out.extend_from_slice(&digits[at..]);
}

fn head(out: &mut Vec<u8>, kind: u8, value: i64) {
    out.push(kind);
    decimal(out, value);
    out.extend_from_slice(b"\r\n");
}

/// `+text`. The text must not have line ends in it.
pub fn simple(out: &mut Vec<u8>, text: &str) {
    out.push(b'+');
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// `-text`. Line ends and other control characters become spaces: the text may quote what a client sent.
pub fn error(out: &mut Vec<u8>, text: &str) {
    out.push(b'-');
    out.extend(text.bytes().map(|b| if b.is_ascii_control() { b' ' } else { b }));
    out.extend_from_slice(b"\r\n");
}

/// `:value`.
pub fn integer(out: &mut Vec<u8>, value: i64) {
    head(out, b':', value);
}

/// A bulk string.
pub fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    head(out, b'$', bytes.len() as i64);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// The head of an array of `len` elements.
pub fn array(out: &mut Vec<u8>, len: usize) {
    head(out, b'*', len as i64);
}

/// The head of a map of `len` pairs; a flat array in RESP2.
pub fn map(out: &mut Vec<u8>, resp3: bool, len: usize) {
    if resp3 {
        head(out, b'%', len as i64);
    } else {
        array(out, len * 2);
    }
}

/// The head of a set of `len` elements; an array in RESP2.
pub fn set(out: &mut Vec<u8>, resp3: bool, len: usize) {
    head(out, if resp3 { b'~' } else { b'*' }, len as i64);
}

/// A long text to be shown as it is: a verbatim string in RESP3, else a bulk string.
pub fn text(out: &mut Vec<u8>, resp3: bool, text: &str) {
    if resp3 {
        head(out, b'=', text.len() as i64 + 4);
        out.extend_from_slice(b"txt:");
        out.extend_from_slice(text.as_bytes());
        out.extend_from_slice(b"\r\n");
    } else {
        bulk(out, text.as_bytes());
    }
}

/// Null.
pub fn null(out: &mut Vec<u8>, resp3: bool) {
    out.extend_from_slice(if resp3 { b"_\r\n" } else { b"$-1\r\n" });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn shapes() {
        assert_eq!(written(|o| integer(o, i64::MIN)), ":-9223372036854775808\r\n");
        assert_eq!(written(|o| integer(o, 0)), ":0\r\n");
        assert_eq!(written(|o| bulk(o, b"ab")), "$2\r\nab\r\n");
        assert_eq!(written(|o| map(o, true, 1)), "%1\r\n");
        assert_eq!(written(|o| map(o, false, 1)), "*2\r\n");
        assert_eq!(written(|o| text(o, true, "a")), "=5\r\ntxt:a\r\n");
        assert_eq!(written(|o| null(o, false)), "$-1\r\n");
    }

    #[test]
    fn errors_stay_on_one_line() {
        assert_eq!(written(|o| error(o, "ERR a\r\n+OK")), "-ERR a  +OK\r\n");
    }
}
