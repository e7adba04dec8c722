"""A stranger's csv of photos and expected quantities: how the audit and query.py both read it.

The rules: a line is a row, and a blank line is none; cells are separated by commas; a quote closes
in its line. Names of columns are stripped and case-folded, a byte order mark is dropped, a name
twice is refused (empty names are no columns), and an unknown one is ignored. A row has as many
cells as the header. A quantity is a whole number from 0 on, with spaces around it, or with zeros
after a point; anything else is that row's fault. What concerns the file is refused, by its line.
"""

HEADER = "photo,expected_quantity\n"
# What the file says: (photo, expected quantity; None: the row's fault) of each row.
READ: dict[str, tuple[str, list[tuple[str, int | None]]]] = {
    "plain": (HEADER + "a.jpg,3\nb.jpg,0\n", [("a.jpg", 3), ("b.jpg", 0)]),
    "no end of line": (HEADER + "a.jpg,3", [("a.jpg", 3)]),
    "spaces and capitals": (" Photo , EXPECTED_Quantity\na.jpg,3\n", [("a.jpg", 3)]),
    "byte order mark": ("\ufeff" + HEADER + "a.jpg,3\n", [("a.jpg", 3)]),
    "byte order mark and quotes": (
        '\ufeff"photo","expected_quantity"\r\n"a.jpg","3"\r\n',
        [("a.jpg", 3)],
    ),
    "other order": ("expected_quantity,photo\n3,a.jpg\n", [("a.jpg", 3)]),
    "unknown columns": ("row,photo,expected_quantity,name\n0,a.jpg,3,pen\n", [("a.jpg", 3)]),
    "nameless columns": (",photo,expected_quantity,\n0,a.jpg,3,\n", [("a.jpg", 3)]),
    "blank lines": ("\n" + HEADER + "\na.jpg,3\n   \n\nb.jpg,1\n", [("a.jpg", 3), ("b.jpg", 1)]),
    "old line ends": ("photo,expected_quantity\ra.jpg,3\rb.jpg,1\r", [("a.jpg", 3), ("b.jpg", 1)]),
    "quotes": (HEADER + '"a, ""b"".jpg","3"\n', [('a, "b".jpg', 3)]),
    "inches": (HEADER + 'a 3".jpg,3\n', [('a 3".jpg', 3)]),
    "quantities": (
        HEADER + "a.jpg, 3 \na.jpg,3.0\na.jpg,3.\na.jpg,007\na.jpg,12.000\n",
        [("a.jpg", 3), ("a.jpg", 3), ("a.jpg", 3), ("a.jpg", 7), ("a.jpg", 12)],
    ),
    "no quantities": (
        HEADER + "".join(f"a.jpg,{text}\n" for text in ("2.5", "-1", "two", "nan", "1e3", "٣")),
        [("a.jpg", None)] * 6,
    ),
}
# What the refusal says.
REFUSED: dict[str, tuple[str, str]] = {
    "open quote": (HEADER + 'a.jpg,3\nb.jpg,"3\nc.jpg,1\n', "line 3"),
    "open quote that another one closes": (HEADER + 'a.jpg,3\n"b.jpg,3\nc.jpg",1\n', "line 3"),
    "text after a quote": (HEADER + '"a.jpg"x,3\n', "line 2"),
    "open quote in the header": ('"photo,expected_quantity\na.jpg,3\n', "line 1"),
    "too few cells": (HEADER + "a.jpg,3\n\nb.jpg\n", "line 4"),
    "too many cells": (HEADER + "a.jpg,3\nb.jpg,3,4\n", "line 3"),
    "a column twice": ("photo,expected_quantity, Photo\na.jpg,3,b.jpg\n", "photo twice"),
    "no photo": ("picture,expected_quantity\na.jpg,3\n", "picture"),
    "semicolons": ("photo;expected_quantity\na.jpg;3\n", "comma"),
    "tabs": ("photo\texpected_quantity\na.jpg\t3\n", "comma"),
    "nothing": ("", "photo"),
}
