"""What programs share that use the network in a sandbox; the host puts it before their text."""

import base64
import functools
import netrc
import os
import ssl
import urllib.parse
import urllib.request

NETRC = '/config/.netrc'
CERTIFICATES = ('PIP_CERT', 'REQUESTS_CA_BUNDLE', 'CURL_CA_BUNDLE', 'SSL_CERT_FILE')
INSECURE_HOSTS = ('PIP_TRUSTED_HOST', 'UV_INSECURE_HOST')


@functools.lru_cache()
def context(is_secure):
    """Trusts whom an installer of the user's would trust, whichever that is."""
    if not is_secure:
        return ssl._create_unverified_context()
    made = ssl.create_default_context()
    for file in {os.environ[name] for name in CERTIFICATES if name in os.environ}:
        if os.path.isfile(file):
            made.load_verify_locations(file)
        elif os.path.isdir(file):
            made.load_verify_locations(capath=file)
    return made


def context_for(url):
    parts = urllib.parse.urlsplit(url)
    insecure = ' '.join(os.environ.get(name, '') for name in INSECURE_HOSTS).replace(',', ' ').split()
    return context(not {parts.hostname, parts.netloc} & set(insecure))


def open_url(url, authorization, timeout, **headers):
    """Authorization is `name:password`; what it lacks the user's netrc may have."""
    request = urllib.request.Request(url, headers={'User-Agent': 'forktree', **headers})
    host = urllib.parse.urlsplit(url).hostname
    if (authorization is None or authorization.endswith(':')) and host and os.path.exists(NETRC):
        found = netrc.netrc(NETRC).authenticators(host)
        if found and authorization in (None, f'{found[0]}:'):
            authorization = f'{found[0]}:{found[2]}'
    if authorization:
        # Not sent on to where a redirect leads.
        encoded = base64.b64encode(authorization.encode()).decode()
        request.add_unredirected_header('Authorization', f'Basic {encoded}')
    return urllib.request.urlopen(request, timeout=timeout, context=context_for(url) if url.startswith('https:') else None)
