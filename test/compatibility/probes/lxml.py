# /// script
# dependencies = ["lxml"]
# ///
from lxml import etree, html


def f(event):
    tree = etree.fromstring('<a><b n="1"/><b n="2"/></a>')
    assert tree.xpath('sum(//b/@n)') == 3
    assert html.fromstring('<p>one<br>two').text_content() == 'onetwo'
    style = etree.XSLT(etree.XML(
        '<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">'
        '<xsl:template match="/"><n><xsl:value-of select="count(//b)"/></n></xsl:template></xsl:stylesheet>'
    ))
    assert str(style(tree)).strip().endswith('<n>2</n>')
    return 'XPath, HTML, XSLT'
