# /// script
# dependencies = ["openpyxl"]
# ///
import io

import openpyxl


def f(event):
    book, data = openpyxl.Workbook(), io.BytesIO()
    book.active.append(['a', 1, 2.5])
    book.save(data)
    read = openpyxl.load_workbook(io.BytesIO(data.getvalue()))
    assert [cell.value for cell in read.active[1]] == ['a', 1, 2.5]
    return 'workbook written and read'
