# /// script
# dependencies = ["beautifulsoup4"]
# ///
import bs4


def f(event):
    soup = bs4.BeautifulSoup('<ul><li class="a">one<li>two</ul>', 'html.parser')
    assert soup.select_one('li.a').find(string=True) == 'one' and len(soup.find_all('li')) == 2
    return 'HTML searched'
