//! The dictionary with which SPDY/3 primes zlib (specification, section 2.6.10.1).

use std::sync::LazyLock;

/// Adler-32 of the dictionary, by which a zlib stream identifies it.
pub(super) const ID: [u8; 4] = [0xe3, 0xc6, 0xa7, 0xc2];

/// The bytes of the dictionary: each word after its length in four bytes, then the tail.
pub(super) static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let words = WORDS.split_terminator('|').flat_map(|word| {
        let length = u32::try_from(word.len()).unwrap_or_default();
        length.to_be_bytes().into_iter().chain(word.bytes())
    });
    words.chain(TAIL.bytes()).collect()
});

const WORDS: &str = "\
    options|head|post|put|delete|trace|accept|accept-charset|accept-encoding|accept-language|accept-ranges|age|allow|\
    authorization|cache-control|connection|content-base|content-encoding|content-language|content-length|\
    content-location|content-md5|content-range|content-type|date|etag|expect|expires|from|host|if-match|\
    if-modified-since|if-none-match|if-range|if-unmodified-since|last-modified|location|max-forwards|pragma|\
    proxy-authenticate|proxy-authorization|range|referer|retry-after|server|te|trailer|transfer-encoding|upgrade|\
    user-agent|vary|via|warning|www-authenticate|method|get|status|200 OK|version|HTTP/1.1|url|public|set-cookie|\
    keep-alive|origin|";

const TAIL: &str = "\
    100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative \
    Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 \
    Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec \
    00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,\
    application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=\
    iso-8859-1,utf-,*,enq=0.";
