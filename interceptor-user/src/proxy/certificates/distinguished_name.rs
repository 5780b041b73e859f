//! A certificate's subject or issuer as text, in RFC 2253's form, as Envoy logs it: `CN=a,O=b`, the last part first.

use super::hash::hex;

/// Attributes by their object identifiers in DER.
const ATTRIBUTES: [(&[u8], &str); 10] = [
    (&[0x55, 4, 3], "CN"),
    (&[0x55, 4, 4], "SN"),
    (&[0x55, 4, 5], "serialNumber"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25], "DC"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1], "emailAddress"),
];

/// A part of a name.
#[derive(Debug)]
pub(crate) struct Attribute<'a> {
    /// Its object identifier.
    pub(crate) kind: &'a [u8],
    /// What kind of text its value is.
    pub(crate) tag: u8,
    pub(crate) value: &'a [u8],
}

/// `der` is what a Name's SEQUENCE holds. What can't be read is left out.
pub(super) fn text(der: &[u8]) -> String {
    let parts: Vec<String> = elements(der)
        .filter_map(|set| {
            let together: Vec<String> = of_set(set).map(|attribute| attribute.text()).collect();
            (!together.is_empty()).then(|| together.join("+"))
        })
        .collect();
    parts.into_iter().rev().collect::<Vec<_>>().join(",")
}

/// The parts, in their order.
pub(crate) fn attributes(der: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    elements(der).flat_map(of_set)
}

fn elements(mut der: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (found, rest) = element(der)?;
        der = rest;
        Some(found.bytes)
    })
}

fn of_set(set: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    elements(set).filter_map(|pair| {
        let (kind, rest) = element(pair)?;
        let (value, _) = element(rest)?;
        Some(Attribute { kind: kind.bytes, tag: value.tag, value: value.bytes })
    })
}

impl Attribute<'_> {
    fn text(&self) -> String {
        let name = ATTRIBUTES.iter().find(|(known, _)| *known == self.kind).map(|(_, name)| *name);
        let name = name.map_or_else(|| format!("#{}", hex(self.kind)), str::to_owned);
        // PrintableString, IA5String and UTF8String; others are seldom, and shown as far as they are text.
        format!("{name}={}", escaped(&String::from_utf8_lossy(self.value)))
    }
}

/// RFC 2253 §2.4.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let last = text.chars().count().saturating_sub(1);
    for (index, c) in text.chars().enumerate() {
        let is_edge = index == 0 || index == last;
        if matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';')
            || (c == ' ' && is_edge)
            || (c == '#' && index == 0)
        {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

struct Element<'a> {
    tag: u8,
    bytes: &'a [u8],
}

/// The first element of DER, and what follows it.
fn element(der: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match usize::from(*first) {
        short @ 0..0x80 => (short, rest),
        long => {
            let count = long - 0x80;
            let (bytes, rest) = rest.split_at_checked(count).filter(|_| (1..=2).contains(&count))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
    };
    let (bytes, rest) = rest.split_at_checked(length)?;
    Some((Element { tag: *tag, bytes }, rest))
}

#[cfg(test)]
mod tests {
    use super::text;

    fn name(parts: &[(&[u8], &str)]) -> Vec<u8> {
        let wrapped = |tag: u8, bytes: &[u8]| [&[tag, u8::try_from(bytes.len()).unwrap()], bytes].concat();
        parts
            .iter()
            .flat_map(|(kind, value)| {
                let pair = [wrapped(6, kind), wrapped(12, value.as_bytes())].concat();
                wrapped(0x31, &wrapped(0x30, &pair))
            })
            .collect()
    }

    #[test]
    fn the_last_part_comes_first() {
        let (cn, o): (&[u8], &[u8]) = (&[0x55, 4, 3], &[0x55, 4, 10]);
        for (parts, expected) in [
            (&[][..], ""),
            (&[(o, "cluster.local"), (cn, "cart")], "CN=cart,O=cluster.local"),
            (&[(cn, " a,b+c ")], "CN=\\ a\\,b\\+c\\ "),
            (&[(&[0x2a, 3][..], "x")], "#2a03=x"),
        ] {
            assert_eq!(text(&name(parts)), expected);
        }
    }

    #[test]
    fn what_is_cut_off_is_left_out() {
        let whole = name(&[(&[0x55, 4, 3], "cart")]);
        for length in 0..whole.len() {
            assert_eq!(text(&whole[..length]), "");
        }
    }
}
