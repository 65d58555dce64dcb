"""Hostile DICOM files cost no memory, and nothing of a patient leaves a header."""

import io
import logging
import struct
import traceback
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image
from sklearn.pipeline import make_pipeline

from skmoecbm import (
    ConceptBottleneckClassifier,
    ConceptEncoder,
    DicomFrame,
    evaluate,
    explain,
    load,
    load_concepts,
    model_report,
    save,
)
from skmoecbm._decoding import n_pixels
from skmoecbm._dicom import dicom_identity
from skmoecbm._dicom_file import read_header
from skmoecbm._dicom_luts import read_palette
from skmoecbm.datasets import make_lesions
from skmoecbm.exceptions import InputError, Unreadable
from skmoecbm.images import image_key, image_keys, iter_images, load_image
from tests.dicom_files import PLANTED, content_of, dataset_of, dicom, header, lut_item

pydicom = pytest.importorskip("pydicom")
encaps = pytest.importorskip("pydicom.encaps")
uid = pydicom.uid
GREY = np.arange(6, dtype="u1").reshape(2, 3)
ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0)


def refused(content, match, megabytes):
    """Read a file that must be refused, within so much memory beyond its own size."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        with pytest.raises(Unreadable, match=match) as caught:
            load_image(content)
        assert image_key(content)  # the key may be asked for, and must not cost more
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak < megabytes * 2**20 + 4 * len(content)
    return str(caught.value)


def with_sequence(content, inner, keyword="RequestAttributesSequence"):
    """Put a sequence of undefined length before the attributes of the image."""
    number = pydicom.datadict.tag_for_keyword(keyword)
    head = struct.pack("<HH2sHI", number >> 16, number & 0xFFFF, b"SQ", 0, 0xFFFFFFFF)
    at = content.index(struct.pack("<HH", 0x28, 0x2))
    return content[:at] + head + inner + content[at:]


# Hostile files -----------------------------------------------------------------------------------


def test_a_picture_larger_than_any_film_is_refused_by_its_header():
    film = dicom(GREY, Rows=65535, Columns=65535)
    refused(film, "its header states 4,294,836,225 pixels, which could be an attack", 1)
    assert n_pixels(film) is None
    compressed = dataset_of(GREY, Rows=60000, Columns=60000)
    compressed.PixelData = encaps.encapsulate([bytes(64)])
    refused(content_of(compressed, uid.RLELossless), "could be an attack", 1)
    many = dicom(GREY, NumberOfFrames=2**31 - 1)
    refused(many, "damaged or cut short", 1)


def test_pixel_data_shorter_than_the_header_says_are_refused():
    refused(dicom(GREY, Rows=9000, Columns=9000), "damaged or cut short", 1)


def test_a_deflated_bomb_is_not_inflated(monkeypatch):
    monkeypatch.setattr("skmoecbm._dicom_file._MOST_INFLATED", 2**20)
    plain = dicom(np.zeros((3000, 3000), "u1"))
    start = plain.index(b"\x08\x00\x16\x00")
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = plain[:start].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    bomb = bomb.replace(
        b"UI\x14\x00" + b"1.2.840.10008.1.2.1.99", b"UI\x16\x001.2.840.10008.1.2.1.99"
    )
    bomb += squeeze.compress(plain[start:]) + squeeze.flush()
    assert len(bomb) < 100_000
    refused(bomb, "inflates to more than 1 MiB", 8)
    monkeypatch.undo()
    load_image(bomb)  # and it was this that stopped it


def test_sequences_in_sequences_are_refused():
    deep = (
        struct.pack("<HH2sHI", 0x40, 0x275, b"SQ", 0, 0xFFFFFFFF) + ITEM[:4] + b"\xff" * 4
    ) * 10**5
    refused(with_sequence(dicom(GREY), deep[12:]), "DICOM header is damaged", 30)


@pytest.mark.parametrize(
    "keyword", ["RequestAttributesSequence", "PerFrameFunctionalGroupsSequence", "VOILUTSequence"]
)
def test_a_header_of_millions_of_items_is_refused(keyword, monkeypatch):
    monkeypatch.setattr("skmoecbm._dicom_file._MOST_READS", 2_000)
    load_image(dicom(GREY))
    film = with_sequence(
        dicom(GREY), ITEM * 10**5 + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0), keyword
    )
    refused(film, "more elements than any image needs", 20)
    number = pydicom.datadict.tag_for_keyword(keyword)
    known = struct.pack("<HH2sHI", number >> 16, number & 0xFFFF, b"SQ", 0, 8 * 10**5)
    at = dicom(GREY).index(struct.pack("<HH", 0x28, 0x2))
    film = dicom(GREY)[:at] + known + ITEM * 10**5 + dicom(GREY)[at:]
    if keyword == "RequestAttributesSequence":
        load_image(film)  # of known length and not needed: skipped
    else:
        refused(film, "more elements than any image needs", 20)


def test_a_compressed_picture_larger_than_its_header_is_not_decoded(monkeypatch):
    def film(picture, kind, syntax, **options):
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        dataset = dataset_of(np.zeros((64, 64, 3), "u1"), photometric="YBR_FULL")
        if kind == "JPEG2000":
            dataset.PhotometricInterpretation = "YBR_RCT"
        dataset.PixelData = encaps.encapsulate([buffer.getvalue()])
        return content_of(dataset, syntax)

    small, large = (Image.new("RGB", (side, side), (9, 99, 200)) for side in (64, 3000))
    for kind, syntax, options in [
        ("JPEG", uid.JPEGBaseline8Bit, {}),
        ("JPEG", uid.JPEGBaseline8Bit, {"progressive": True}),
        ("JPEG2000", uid.JPEG2000Lossless, {"no_jp2": True, "mct": 1}),
        ("JPEG2000", uid.JPEG2000Lossless, {"no_jp2": False, "mct": 1}),
    ]:
        shown = np.asarray(load_image(film(small, kind, syntax, **options)))
        assert np.abs(shown.astype(int) - (9, 99, 200)).max() <= 3
        refused(film(large, kind, syntax, **options), "another size than its header says", 1)
    dataset = dataset_of(np.zeros((64, 64, 3), "u1"))
    dataset.PixelData = encaps.encapsulate([b"\xff\xd8" + bytes(3000)])
    refused(content_of(dataset, uid.JPEGBaseline8Bit), "has no header", 1)


def test_run_lengths_that_stand_for_too_much_are_refused():
    runs = struct.pack("<16L", 1, 64, *[0] * 14) + b"\x81\x00" * 10**6
    dataset = dataset_of(GREY)
    dataset.PixelData = encaps.encapsulate([runs])
    refused(content_of(dataset, uid.RLELossless), "more pixels than it has", 1)


def branching(n_levels):
    """Segments in threes, each of which stands for the three before it."""
    begins, segments = 3, []
    for level in range(n_levels):
        segments += [2, 3, 2 * begins, 0] * 3  # an offset in bytes
        begins += 12 if level else 6
    return segments


@pytest.mark.parametrize(
    "segments",
    [
        [0, 1, 7, *[1, 65535, 9] * 10**4],  # lines
        [0, 1, 7, 2, 65535, 0, 0],  # all from the start again, itself too
        [0, 1, 7, *[0, 0] * 9000, 2, 9000, 6, 0, *[2, 65535, 6, 0] * 99],  # nothing, many times
        [0, 1, 7, *[0, 0] * 3, *branching(40)],  # nothing, 3 to the power of 40 times
    ],
)
def test_segments_that_stand_for_too_much_are_refused(segments):
    dataset = dataset_of(GREY, photometric="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        content = np.array(segments, "<u2").tobytes()
        setattr(dataset, f"Segmented{colour}PaletteColorLookupTableData", content)
    with pytest.raises(Unreadable, match="segmented palette"):
        read_palette(dataset, True)
    refused(content_of(dataset), "segmented palette", 20)


def test_tables_shorter_than_they_announce_are_refused():
    item = lut_item(0, 12, range(100))
    item.LUTDescriptor = [4096, 0, 12]
    refused(dicom(GREY, VOILUTSequence=[item]), "has 200 of the 4,096 entries it announces", 1)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["RescaleSlope", "RescaleIntercept", "WindowCenter"])
def test_numbers_too_large_for_arithmetic_are_refused(name):
    film = {"RescaleSlope": 2, "RescaleIntercept": 1, "WindowCenter": 3, "WindowWidth": 4}
    refused(dicom(GREY, **{**film, name: "1e308"}), f"{name} is beyond 1e\\+30", 1)
    narrow = np.asarray(load_image(dicom(GREY, **{**film, "WindowWidth": "1e-308"})))
    assert narrow[..., 0].tolist() == [[0, 128, 255], [255, 255, 255]]


# What must not leave the header ------------------------------------------------------------------


@pytest.fixture(scope="module")
def ward(tmp_path_factory):
    """Lesions as DICOM files whose headers name patients."""
    folder = tmp_path_factory.mktemp("ward")
    data = make_lesions(100, random_state=0)
    paths = []
    for n, image in enumerate(data.images):
        grey = np.asarray(Image.fromarray(image).convert("L")).astype("u2") * 16
        film = image if n % 2 else grey
        attributes = {} if n % 2 else {"stored": 12, "WindowCenter": 2048, "WindowWidth": 4096}
        paths.append(folder / f"{n:03}.dcm")
        paths[-1].write_bytes(dicom(film, patient=n, **attributes))
    return paths, data.target


def _search(what, content):
    for word in PLANTED:
        for form in (word.encode(), word.encode("utf-16-le"), word.lower().encode()):
            assert form not in content, (what, word)


def test_the_search_finds_what_is_planted(ward):
    with pytest.raises(AssertionError):
        _search("film", ward[0][0].read_bytes())
    content = ward[0][0].read_bytes()
    assert all(word.encode() in content for word in PLANTED)


def test_nothing_that_is_written_or_said_names_a_patient(ward, tmp_path, caplog, capsys):
    paths, labels = ward
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = make_pipeline(
            ConceptEncoder(
                "demo-structures", load_concepts("lesions"), cache_dir=tmp_path / "store", verbose=1
            ),
            ConceptBottleneckClassifier(cv=2, random_state=0, verbose=1),
        )
        model.fit(paths, labels)
        shown = [*paths[:2], DicomFrame(paths[2], window=(2000, 3000))]
        explanation = explain(model, shown)
        save(model, tmp_path / "model")
        load(tmp_path / "model").predict(shown)
        report = model_report(model, paths[:30], labels[:30], path=tmp_path / "report.html")
        evaluation = evaluate(model, paths, labels, n_bootstrap=20)
    texts = [repr(explanation), str(explanation), explanation.to_frame().to_csv(), repr(report)]
    texts += [repr(evaluation), caplog.text, *map(str, told), *capsys.readouterr(), repr(model)]
    texts += image_keys(paths)
    for text in texts:
        _search("text", text.encode())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"store", "model", "report.html"} <= {
        path.relative_to(tmp_path).parts[0] for path in files
    }
    for path in files:
        _search(path.name, path.read_bytes())
        _search(path.name, str(path.relative_to(tmp_path)).encode())


def test_a_data_set_in_the_place_of_an_image_is_refused_without_its_repr():
    dataset = pydicom.dcmread(io.BytesIO(dicom(GREY)))
    assert "Zwiebelmann" in repr(dataset)
    lesions = make_lesions(40, random_state=0)
    encoder = ConceptEncoder("demo-general", "lesions")
    model = make_pipeline(encoder, ConceptBottleneckClassifier(cv=2, random_state=0))
    model.fit(list(lesions.images), lesions.target)
    one = [lesions.images[0], dataset]
    head = ConceptBottleneckClassifier()
    attempts = {
        "load_image": lambda: load_image(dataset),
        "image_key": lambda: image_key(dataset),
        "image_keys": lambda: image_keys(one),
        "raise": lambda: list(iter_images(one)),
        "missing": lambda: list(iter_images(one, on_error="missing")),
        "explain": lambda: explain(model, one),
        "predict": lambda: model.predict(one),
        "transform": lambda: model[0].transform(one),
        "missing rows": lambda: ConceptEncoder(
            "demo-general", "lesions", on_error="missing"
        ).fit_transform(one),
        "fit": lambda: encoder.fit(dataset),
        "a single one": lambda: model.predict(dataset),
        "explain a single one": lambda: explain(model, dataset),
        "no encoder": lambda: head.fit([dataset, dataset], [0, 1]),
        "no encoder, a single one": lambda: head.fit(dataset, [0, 1]),
        "evaluate": lambda: evaluate(model, one, lesions.target[:2]),
        "a parameter": lambda: DicomFrame("film.dcm", window=dataset),
        "a frame": lambda: load_image(DicomFrame(dataset)),
    }
    for what, attempt in attempts.items():
        with warnings.catch_warnings(record=True) as told, pytest.raises(Exception) as caught:
            warnings.simplefilter("always")
            attempt()
        text = "".join(traceback.format_exception(caught.value)) + str([str(w) for w in told])
        _search(what, text.encode())
        assert isinstance(caught.value, InputError), (what, text)
        if what not in ("no encoder", "no encoder, a single one", "evaluate", "a parameter"):
            assert "its path or its bytes" in str(caught.value), (what, str(caught.value))


@pytest.mark.parametrize("stranger", [{"PatientName": "Zwiebelmann"}, {"Zwiebelmann"}])
def test_strangers_are_called_by_their_type(stranger):
    with pytest.raises(InputError, match=f"image <{type(stranger).__name__}> cannot") as caught:
        image_key(stranger)
    assert "Zwiebelmann" not in str(caught.value)


def _damaged(content):
    """Yield versions of a file, each broken at another place."""
    yield from (content[:cut] for cut in range(140, len(content), 97))
    rng = np.random.default_rng(0)
    for _ in range(150):
        broken = bytearray(content)
        for at in rng.integers(132, len(content), 3):
            broken[at] = rng.integers(256)
        yield bytes(broken)


def test_no_error_or_warning_about_a_damaged_film_quotes_its_header(caplog, capsys):
    caplog.set_level(logging.DEBUG)
    names = {"WindowCenter": 2, "WindowWidth": 3, "WindowCenterWidthExplanation": "Mustermann"}
    content = dicom(GREY, SOPInstanceUID="not-a-uid-" + PLANTED[2], **names)
    odd = [content, content.replace(b"MONOCHROME2", b"Mustermann "), dicom(GREY, Rows=7)]
    caplog.clear()  # pydicom's warning about the odd UID as it was written
    failed = 0
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for film in (*odd, *_damaged(content)):
            for image in (film, DicomFrame(film, window="x"), DicomFrame(film, frame=4)):
                try:
                    load_image(image)
                except InputError as error:
                    failed += 1
                    _search("error", "".join(traceback.format_exception(error)).encode())
        assert list(iter_images([content[:300]], on_error="missing")) == [None]
    assert failed > 300
    for text in [*map(str, told), caplog.text, *capsys.readouterr()]:
        _search("told", text.encode())


def with_element(content, keyword, vr, value):
    """Put an element before the attributes of the image, or in place of the one that is there."""
    number = pydicom.datadict.tag_for_keyword(keyword)
    tag = struct.pack("<HH", number >> 16, number & 0xFFFF)
    value += b" " * (len(value) % 2)
    new = tag + vr + struct.pack("<H", len(value)) + value
    at = content.find(tag + b"US", 132)
    if at >= 0:
        return content[:at] + new + content[at + 10 :]
    at = content.index(b"\x28\0\x02\0US" if number >> 16 == 0x28 else b"\x08\0\x16\0UI")
    return content[:at] + new + content[at:]


@pytest.mark.parametrize(
    ("keyword", "vr", "refused_for"),
    [
        ("NumberOfFrames", b"IS", "header is damaged"),
        ("RescaleSlope", b"DS", "header is damaged"),
        ("WindowCenter", b"DS", "header is damaged"),
        ("WindowWidth", b"XX", "header is damaged"),
        ("PixelPaddingValue", b"LO", "header is damaged"),
        ("Rows", b"UI", "header is damaged"),
        ("Columns", b"IS", "header is damaged"),
        ("PixelRepresentation", b"PN", "header is damaged"),
        ("PhotometricInterpretation", b"PN", "photometric interpretation is none of"),
        ("VOILUTSequence", b"LO", "header is damaged"),
        ("SpecificCharacterSet", b"CS", None),
        ("WindowCenterWidthExplanation", b"UI", None),
        ("WindowCenterWidthExplanation", b"DA", None),
        ("VOILUTFunction", b"CS", None),
        ("BurnedInAnnotation", b"UI", None),
    ],
)
def test_of_a_name_in_a_wrong_place_nothing_is_told_by_pydicom_either(
    keyword, vr, refused_for, caplog, tmp_path
):
    plain = dicom(GREY)
    if keyword == "PhotometricInterpretation":
        plain = plain.replace(b"MONOCHROME2 ", b"Mustermann  ")
    film = with_element(plain, keyword, vr, b"Mustermann^Max")
    (tmp_path / "a.dcm").write_bytes(film)
    caplog.set_level(logging.DEBUG)
    caplog.clear()
    errors = []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for image in (film, DicomFrame(film, window="x"), tmp_path / "a.dcm"):
            errors.append("")
            try:
                list(iter_images([image], n_threads=2))
            except InputError as error:
                errors[-1] = "".join(traceback.format_exception(error))
        key = image_key(film)
    if refused_for is None:
        assert errors[0] == errors[2] == "" and "it has no window" in errors[1]
    else:
        assert refused_for in errors[0] and refused_for in errors[2] and errors[1]
    assert not told and not caplog.records
    _search("errors", "".join([*errors, key]).encode())


@pytest.mark.parametrize("syntax", [b"Mustermann^Max^63 ", b"19630407.00815.1\0\0", b"1.2.02\xff"])
def test_an_odd_transfer_syntax_is_refused_and_told_to_nobody(syntax, caplog):
    plain = dicom(GREY)
    at = plain.index(b"\x02\0\x10\0UI")
    length = struct.pack("<H", len(syntax))
    film = plain[: at + 6] + length + syntax + plain[at + 28 :]
    caplog.set_level(logging.DEBUG)
    caplog.clear()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(Unreadable, match=r"transfer syntax is a private|damaged") as caught:
            load_image(film)
        name, content = dicom_identity(film)
    assert not told and not caplog.records and content == film
    for text in (repr(name), "".join(traceback.format_exception(caught.value))):
        _search("told", text.encode())
        assert "19630407" not in text


def test_a_window_is_found_by_its_name_in_the_character_set_of_the_file():
    for charset, codec in [
        ("ISO_IR 192", "utf-8"),
        ("ISO_IR 144", "iso8859_5"),
        ("\\ISO 2022 IR 87", "iso2022_jp"),
        (None, "latin-1"),
    ]:
        name = {"iso8859_5": "Лёгкие", "iso2022_jp": "肺野"}.get(codec, "Größe")
        film = dicom(GREY, WindowCenter=[2, 3], WindowWidth=[3, 4])
        told = b"first\\" + name.encode(codec)
        film = with_element(film, "WindowCenterWidthExplanation", b"LO", told)
        if charset:
            film = with_element(film, "SpecificCharacterSet", b"CS", charset.encode())
        named = np.asarray(load_image(DicomFrame(film, window=name)))
        np.testing.assert_array_equal(named, load_image(DicomFrame(film, window=1)))
        assert not np.array_equal(named, load_image(DicomFrame(film, window=0)))


def test_of_the_header_nothing_is_read_that_names_a_patient():
    whole = pydicom.dcmread(io.BytesIO(dicom(GREY)))
    assert {name for name in header() if name in whole} == set(header())
    read, _, _ = read_header(dicom(GREY))
    assert {name for name in header() if name in read} == set()
    assert "SOPInstanceUID" in whole and "SOPInstanceUID" not in read and "Rows" in read
