from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from nextvec.data.readers.python_docs import MIN_CHARS, MIN_WORDS, docstring_paragraphs, is_prose

A1, A2 = "The harbour master wrote down the name", "of every ship that came in with the tide."
B1, B2 = "Nobody knew in which of the three boats", "the old lighthouse keeper had gone away."
A, B = f"{A1} {A2}", f"{B1} {B2}"
C = "In the evening all the lamps along the quay were lit by a boy with a long pole."


def test_wrapped_lines_are_joined_and_blank_lines_separate_paragraphs() -> None:
    text = f"""{A1}
        {A2}

        {B}
        \t
        {C}
    """
    assert docstring_paragraphs(text) == [A, B, C]


def test_a_change_of_indentation_separates_paragraphs() -> None:
    text = f"""
    {A1}
    {A2}
        {B1}
        {B2}
    {C}
    """
    assert docstring_paragraphs(text) == [A, B, C]


def test_doctests_and_their_output_are_dropped() -> None:
    text = f"""
    {A}

    >>> print("The output of an example is not prose, even where it looks like it.")
    The output of an example is not prose, even where it looks like it.

    {B}
    >>> f(1)
    {C}

    {C}
    """
    assert docstring_paragraphs(text) == [A, B, C]


def test_literal_blocks_are_dropped_up_to_their_indentation() -> None:
    text = f"""
    {A[:-1]}::

        {B}

            {B}

        {B}

    {C}
    Example::
        {B}
    .. code-block:: python

       {B}

    .. math::
       {B}
    .. _target: {B}
    .. [1] {B}
       {B}

    {B}
    """
    assert docstring_paragraphs(text) == [A[:-1] + ":", C, B]


def test_prose_directives_keep_their_text() -> None:
    text = f"""
    .. note::

        {A}

    .. warning:: {B1}
        {B2}

    .. versionchanged:: 1.2
        {C}
    .. deprecated:: 2.0 {A}
    """
    assert docstring_paragraphs(text) == [A, B, C, A]


def test_headings_and_tables_are_dropped() -> None:
    text = f"""
    A heading that is long enough to be taken for a sentence if not for its line.
    ------------------------------------------------------------------------------
    {A}

    =====  ==============================================================================
    One    {B}
    =====  ==============================================================================

    +-----+------+
    | {B} | x |
    +-----+------+

    {C}
    """
    assert docstring_paragraphs(text) == [A, C]


def test_numpy_parameters_keep_their_descriptions() -> None:
    text = f"""
    Parameters
    ----------
    x, *args : {{'a', 'b', 'c'}} or a description of its type that is made of a few words.
        {A1}
        {A2}
    other : array_like, optional
        {B}

        {C}

    Returns
    -------
    ndarray
        {A}

    See Also
    --------
    function : {B}
    """
    assert docstring_paragraphs(text) == [A, B, C, A, B]


def test_google_and_sphinx_parameters_keep_their_descriptions() -> None:
    text = f"""
    {C}
    Args:
        x (Tensor): {A1}
            {A2}
        f (Callable[[int], str], optional): {B}
        name: {C}

    :param x: {A}
    :param int y: {B1}
      {B2}
    :returns:
      {C}
    """
    assert docstring_paragraphs(text) == [C, A, B, C, A, B, C]


def test_list_items_are_separate_paragraphs() -> None:
    text = f"""
    {A}
      - {B1}
        {B2}
      * {C}
      1. {A}
      (a) {B}
    """
    assert docstring_paragraphs(text) == [A, B, C, A, B]


def test_inline_markup_is_removed() -> None:
    text = "Use :class:`~torch.nn.Module` or ``np.array`` with `x`, see `the guide <https://x.org/y>`_ for all of it."
    assert docstring_paragraphs(text) == ["Use torch.nn.Module or np.array with x, see the guide for all of it."]
    text = ":class:`Boat` is what every ship of the harbour is made from when it is first built."
    assert docstring_paragraphs(text) == ["Boat is what every ship of the harbour is made from when it is first built."]


def test_prose_is_recognized() -> None:
    assert is_prose(A)
    assert is_prose(f'("{A}")')
    assert not is_prose("Return the sum of it.")  # too short
    assert not is_prose("Internationalisation misunderstandings notwithstanding, reconsideration.")  # too few words
    assert not is_prose(A[:-1])  # no sentence: it has no end
    assert not is_prose(A.lower())  # nor a beginning
    code = "For i in range(10): x[i] = f(i) + g(i, 2) * 3.0 if y == 0 else z[0]; k += 1 or more."
    assert len(code) > MIN_CHARS
    assert len(code.split()) > MIN_WORDS
    assert not is_prose(code)


LINES = [
    "",
    A,
    B,
    "x : int",
    "- item",
    ">>> f()",
    "----",
    "| a |",
    "Code::",
    ".. note::",
    ":param x: y",
    "``",
    "`a <b>`_",
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.sampled_from(LINES)), max_size=20))
def test_any_mixture_gives_single_lines_of_prose(lines: list[tuple[int, str]]) -> None:
    text = "\n".join(" " * indent + line for indent, line in lines)
    for paragraph in docstring_paragraphs(text):
        assert is_prose(paragraph)
        assert paragraph == " ".join(paragraph.split())
        assert ">>>" not in paragraph
