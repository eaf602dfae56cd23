"""Every layout on a hand-made sample, faults included: what becomes what, and which line was refused."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scripts.exchange.command import FileFormat
from scripts.exchange.formats import LAYOUTS
from scripts.exchange.sources import NoSuchLayoutError
from store.home import Home
from store.imports import FORMATS, UnreadableFileError
from tests.layouts import imported, lines, write


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def test_the_command_takes_every_layout() -> None:
    assert {one.value for one in FileFormat} == {"auto", *FORMATS, *LAYOUTS}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folder_without_the_files_says_what_was_looked_for(name: str, tmp_path: Path) -> None:
    write(tmp_path, notes_DOT_doc="x")
    with pytest.raises(NoSuchLayoutError, match=r"looked for .*; found notes\.doc"):
        LAYOUTS[name].find(tmp_path, None)


def test_movielens_with_commas(tmp_path: Path, home: Home) -> None:
    folder = write(
        tmp_path / "ml",
        movies_DOT_csv=(
            "movieId,title,genres\n1,Toy Story (1995),Adventure|Animation\n"
            '2,"President, The",(no genres listed)\n'
        ),
        ratings_DOT_csv=(
            "userId,movieId,rating,timestamp\n1,1,4.5,964982703\n1,2,bad,964982703\n2,2,3.5,soon\n2,1\n"
            "3,9,1,964982703\n2,2,0.5,964982704\n"
        ),
        tags_DOT_csv='userId,movieId,tag,timestamp\n1,1,"a ""fine"" one",964982703\n1,1,,964982703\n',
    )
    done = imported(folder, "movielens", home)
    assert done.rows == {
        "items": [
            (
                *("1", "Toy Story (1995)", "Genres: Adventure, Animation", "movie"),
                *('{"genres":["Adventure","Animation"],"year":1995}', True),
            ),
            ("2", "President, The", None, "movie", "{}", True),
        ],
        "behaviors": [
            ("1", "1", "rate", 4.5, "2000-07-30 18:45:03", None),
            ("2", "2", "rate", 0.5, "2000-07-30 18:45:04", None),
        ],
        "texts": [("1", "1", 'a "fine" one', "2000-07-30 18:45:03")],
    }
    assert done.refused == {
        ("ratings.csv", 3, "weight_not_a_number"),
        ("ratings.csv", 4, "unparsable_time"),
        ("ratings.csv", 5, "malformed_row"),
        ("ratings.csv", 6, "unknown_item"),
        ("tags.csv", 3, "empty_text"),
    }
    assert not any(home.imports.iterdir())


def test_movielens_of_1998(tmp_path: Path, home: Home) -> None:
    flags = "|".join("1" if at in (1, 5) else "0" for at in range(19))
    folder = write(
        tmp_path / "ml-100k",
        u_DOT_data="196\t1\t3\t881250949\n22\t1\n",
        u_DOT_item=f"1|Caf\xe9 (1994)|01-Jan-1995||http://x|{flags}\n".encode("latin-1"),
    )
    done = imported(folder, "movielens", home)
    assert done.rows["items"][0][1:3] == ("Café (1994)", "Genres: Action, Comedy")
    assert done.rows["behaviors"] == [("196", "1", "rate", 3.0, "1997-12-04 15:55:49", None)]
    assert done.refused == {("u.data", 2, "malformed_row")}


def test_movielens_with_colons(tmp_path: Path, home: Home) -> None:
    folder = write(
        tmp_path / "ml-10m",
        movies_DOT_dat="1::Amélie: A Story (2001)::Comedy|Romance\n".encode(),
        ratings_DOT_dat_DOT_gz="1::1::5::838985046\n1::1::4.5::838985047::x\n",
        tags_DOT_dat="15::1::excellent!::1215184630\n",
    )
    done = imported(folder, "movielens", home)
    assert done.rows["items"][0][1] == "Amélie: A Story (2001)"
    assert done.rows["behaviors"] == [("1", "1", "rate", 5.0, "1996-08-02 11:24:06", None)]
    assert done.rows["texts"] == [("15", "1", "excellent!", "2008-07-04 15:17:10")]
    assert done.refused == {("ratings.dat.gz", 2, "malformed_row")}
    latin = write(tmp_path / "ml-1m", movies_DOT_dat="1::Am\xe9lie::Comedy\n".encode("latin-1"))
    write(latin, ratings_DOT_dat="1::1::5::978300760\n")
    assert imported(latin, "movielens", Home(tmp_path / "h2")).rows["items"][0][1] == "Amélie"


def test_lastfm(tmp_path: Path, home: Home) -> None:
    files = {
        "artists_DOT_dat": 'id\tname\turl\tpictureURL\n1\tMALICE MIZER\thttp://x\thttp://y\n2\tDead "Can\n',
        "tags_DOT_dat": b"tagID\ttagValue\n1\tmetal\n2\tcaf\xe9\n",
        "user_artists_DOT_dat": "userID\tartistID\tweight\n2\t1\t13883\n2\t2\t-1\n",
        "user_friends_DOT_dat": "userID\tfriendID\n2\t275\n275\t2\n",
        "user_taggedartists_DOT_dat": (
            "userID\tartistID\ttagID\tday\tmonth\tyear\n2\t1\t1\t1\t4\t2009\n2\t1\t9\t1\t4\t2009\n"
            "2\t1\t2\t41\t4\t2009\n2\t2\t2\t2\t4\t2009\n"
        ),
    }
    done = imported(write(tmp_path / "lf", **files), "lastfm-hetrec", home)
    assert [row[:4] for row in done.rows["items"]] == [
        ("1", "MALICE MIZER", None, "artist"),
        ("2", 'Dead "Can', None, "artist"),
    ]
    assert done.rows["behaviors"] == [("2", "1", "listen", 13883.0, None, None)]
    assert done.rows["social"] == [("2", "275", "friend", 1.0), ("275", "2", "friend", 1.0)]
    assert done.rows["texts"] == [
        ("2", "1", "metal", "2009-04-01 00:00:00"),
        ("2", "2", "café", "2009-04-02 00:00:00"),
    ]
    assert done.refused == {
        ("user_artists.dat", 3, "negative_weight"),
        ("user_taggedartists.dat", 3, "unknown_tag"),
        ("user_taggedartists.dat", 4, "unparsable_time"),
    }
    stamped = "userID\tartistID\ttagID\ttimestamp\n2\t1\t1\t1238536800500\n"
    folder = write(tmp_path / "stamped", **files)
    (folder / "user_taggedartists-timestamps.dat").write_text(stamped)
    done = imported(folder, "lastfm-hetrec", Home(tmp_path / "h2"))
    assert done.rows["texts"] == [("2", "1", "metal", "2009-03-31 22:00:00.5")]


def test_amazon_reviews_of_both_editions(tmp_path: Path, home: Home) -> None:
    folder = write(
        tmp_path / "am",
        old_DOT_json_DOT_gz=lines(
            {
                **{"overall": 5.0, "verified": True, "reviewerID": "A1", "asin": "51", "reviewerName": "Al"},
                **{"reviewText": "I have 4.", "summary": "Five Stars", "unixReviewTime": 1514764800},
            },
            {"overall": 1, "reviewerID": "A2", "asin": "51", "unixReviewTime": 1514764801},
            '{"overall": 5.0, broken',
            {"overall": 5.0, "reviewerID": "A3", "asin": "51", "unixReviewTime": "never"},
            "[1]",
            {"overall": "five", "reviewerID": "A4", "asin": "51", "reviewText": "half \ud800 a pair"},
        ),
        new_DOT_jsonl=lines(
            {
                **{"rating": 4.0, "title": "Lovely", "text": "Nice.", "asin": "B9", "parent_asin": "B0"},
                **{"user_id": "AG", "timestamp": 1588687728923, "helpful_vote": 0},
            }
        ),
        meta_DOT_jsonl=lines(
            {
                **{
                    "main_category": "Beauty",
                    "title": "Howard",
                    "features": ["a", "b"],
                    "description": ["c"],
                },
                **{"price": 12.99, "store": "H", "categories": ["x", ["y", "x"]], "parent_asin": "B0"},
            },
            {"asin": "51", "title": "Old", "price": "$1,012.50", "category": ["C"], "brand": "B"},
            {"asin": "52", "title": "Odd", "price": "from 3 to 5"},
        ),
    )
    done = imported(folder, "amazon-reviews", home)
    assert [(row[0], row[1], row[2], row[4]) for row in done.rows["items"]] == [
        ("51", "Old", None, '{"categories":["C"],"brand":"B","price":1012.5}'),
        ("52", "Odd", None, "{}"),
        (
            *("B0", "Howard", "a\nb\nc"),
            '{"categories":["x","y"],"main_category":"Beauty","brand":"H","price":12.99}',
        ),
    ]
    assert done.rows["behaviors"] == [
        ("A1", "51", "rate", 5.0, "2018-01-01 00:00:00", None),
        ("A2", "51", "rate", 1.0, "2018-01-01 00:00:01", None),
        ("AG", "B0", "rate", 4.0, "2020-05-05 14:08:48.923", None),
    ]
    assert done.rows["texts"] == [
        ("A1", "51", "Five Stars\nI have 4.", "2018-01-01 00:00:00"),
        ("AG", "B0", "Lovely\nNice.", "2020-05-05 14:08:48.923"),
    ]
    assert done.refused == {
        ("old.json.gz", 3, "malformed_row"),
        ("old.json.gz", 4, "unparsable_time"),
        ("old.json.gz", 5, "malformed_row"),
        ("old.json.gz", 6, "half_a_surrogate_pair"),
        ("old.json.gz", 6, "weight_not_a_number"),
    }


def test_yelp(tmp_path: Path, home: Home) -> None:
    folder = write(
        tmp_path / "yelp",
        yelp_academic_dataset_business_DOT_json=lines(
            {
                **{"business_id": "b1", "name": "St Honore", "city": "Philadelphia", "state": "PA"},
                **{"stars": 4.0, "is_open": 1, "categories": "Restaurants, Food", "hours": None},
            },
            {"business_id": "b2", "name": "Shut", "is_open": 0, "categories": None},
            {"business_id": "b3", "name": "Odd", "categories": ["x"]},
        ),
        yelp_academic_dataset_review_DOT_json=lines(
            {"user_id": "u1", "business_id": "b1", "stars": 3.0, "text": "ok", "date": "2018-07-07 22:09:11"},
            {"user_id": "u1", "business_id": "b2", "stars": 3.0, "text": "ok", "date": "yesterday"},
        ),
        yelp_academic_dataset_tip_DOT_json=lines(
            {"user_id": "u2", "business_id": "b1", "text": "Go", "date": "2012-05-18 02:17:21"}
        ),
        yelp_academic_dataset_user_DOT_json=lines(
            {"user_id": "u1", "name": "Walker", "friends": "u2, u3, u2"},
            {"user_id": "u2", "name": "Ann", "friends": "None"},
            {"user_id": "u3", "friends": 7},
        ),
    )
    done = imported(folder, "yelp", home)
    assert done.rows["items"] == [
        (
            *("b1", "St Honore", "Categories: Restaurants, Food\nPhiladelphia, PA", "business"),
            '{"categories":["Restaurants","Food"],"city":"Philadelphia","state":"PA","stars":4.0}',
            True,
        ),
        ("b2", "Shut", None, "business", "{}", False),
    ]
    assert done.rows["behaviors"] == [
        ("u1", "b1", "rate", 3.0, "2018-07-07 22:09:11", None),
        ("u2", "b1", "tip", 1.0, "2012-05-18 02:17:21", None),
    ]
    assert [row[2] for row in done.rows["texts"]] == ["ok", "Go"]
    assert [row[:2] for row in done.rows["social"]] == [("u1", "u2"), ("u1", "u3")]
    assert done.refused == {
        ("yelp_academic_dataset_business.json", 3, "bad_categories"),
        ("yelp_academic_dataset_review.json", 2, "unparsable_time"),
        ("yelp_academic_dataset_user.json", 3, "bad_friends"),
    }


def test_mind_in_two_parts(tmp_path: Path, home: Home) -> None:
    news = 'N1\tlife\troyals\tThe Brands\tShop\thttps://a\t[]\t[]\nN2\tnews\tus\tOne "quoted\t\thttps://b\t[]\t[]\n'
    folder = write(
        tmp_path / "mind",
        train__news_DOT_tsv=news,
        dev__news_DOT_tsv=news + "N3\tnews\tus\tThird\tx\n",
        train__behaviors_DOT_tsv=(
            "1\tU1\t11/11/2019 9:05:58 AM\tN1 N2\tN2-0 N1-1\n2\tU1\t11/12/2019 6:11:30 PM\tN1 N2\tN2-1 N1-x\n"
            "3\tU1\t11/12/2019 6:11:30 PM\tN1 N2\tN2-1\n"
        ),
        dev__behaviors_DOT_tsv="1\tU2\t11/15/2019 9:05:58 AM\t\tN2 N9\n",
    )
    done = imported(folder, "mind", home)
    assert [(row[0], row[1], row[2], row[3]) for row in done.rows["items"]] == [
        ("N1", "The Brands", "Shop", "news"),
        ("N2", 'One "quoted', None, "news"),
        ("N3", "Third", "x", "news"),
    ]
    assert done.rows["behaviors"] == [
        ("U1", "N1", "click", 1.0, "2019-11-11 09:05:58", None),
        ("U1", "N1", "click", 1.0, None, None),
        ("U1", "N2", "click", 1.0, "2019-11-12 18:11:30", None),
        ("U1", "N2", "click", 1.0, None, None),
    ]
    assert done.rows["impressions"] == [
        ("U1", "N1", "2019-11-11 09:05:58", 1, "train/1", True),
        ("U1", "N2", "2019-11-11 09:05:58", 0, "train/1", False),
        ("U1", "N2", "2019-11-12 18:11:30", 0, "train/3", True),
        ("U2", "N2", "2019-11-15 09:05:58", 0, "dev/1", False),
    ]
    assert done.refused == {
        ("behaviors.tsv", 2, "bad_impressions"),
        ("behaviors.tsv", 1, "unknown_item"),
    }


def test_recbole(tmp_path: Path, home: Home) -> None:
    folder = write(
        tmp_path / "rb",
        x_DOT_item=(
            "item_id:token\tmovie_title:token_seq\tclass:token_seq\tprice:float\n"
            "1\tToy Story\tA B\t3\n2\tOther\t\t\n"
        ),
        x_DOT_part1_DOT_inter=(
            "user_id:token\titem_id:token\trating:float\ttimestamp:float\n7\t1\t4.0\t964982703.5\n7\t2\n"
        ),
        x_DOT_part3_DOT_inter="user_id:token\titem_id:token\trating:float\ttimestamp:float\n7\t2\t1\tlate\n8\t2\t1\t1\n",
        x_DOT_inter="user_id:token\titem_id:token\n9\t1\n",
        x_DOT_net="source_id:token\ttarget_id:token\n7\t8\n",
        x_DOT_user="user_id:token\tage:float\n7\t30\n",
    )
    done = imported(folder, "recbole", home)
    assert [(row[0], row[1], row[4]) for row in done.rows["items"]] == [
        ("1", "Toy Story", '{"class":["A","B"],"price":3}'),
        ("2", "Other", "{}"),
    ]
    assert done.rows["behaviors"] == [
        ("7", "1", "rate", 4.0, "2000-07-30 18:45:03.5", "train"),
        ("8", "2", "rate", 1.0, "1970-01-01 00:00:01", "test"),
    ]
    assert done.rows["social"] == [("7", "8", "friend", 1.0)]
    assert done.refused == {
        ("x.part1.inter", 3, "malformed_row"),
        ("x.part3.inter", 2, "unparsable_time"),
    }


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["u1", "i1", "2019-11-11 09:05:58", "None", "4.5", "\ud800", "a, b", "$1.2"])
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)
NAMES = {
    "amazon-reviews": [
        *(
            "reviewerID",
            "asin",
            "overall",
            "summary",
            "reviewText",
            "unixReviewTime",
            "user_id",
            "parent_asin",
        ),
        *("rating", "title", "text", "timestamp", "price", "categories", "description", "features", "store"),
    ],
    "yelp": [
        "business_id",
        "user_id",
        "stars",
        "text",
        "date",
        "friends",
        "name",
        "city",
        "categories",
        "is_open",
    ],
}


@pytest.mark.parametrize("layout", NAMES)
@given(data=st.data())
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_record_holds_becomes_rows_or_a_reason(
    layout: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    records = st.dictionaries(st.sampled_from(NAMES[layout]), VALUES, max_size=9)
    text = lines(*data.draw(st.lists(records, min_size=1, max_size=6)), "[" * 400 + "]" * 400)
    folder = tmp_path_factory.mktemp("any")
    if layout == "yelp":
        write(folder, **{f"{kind}_DOT_json": text for kind in ("business", "review", "tip", "user")})
    else:
        first = {"a": {"reviewerID": "u"}, "b": {"user_id": "u", "rating": 1}, "c": {"asin": "i"}}
        write(folder, **{f"{name}_DOT_jsonl": lines(row) + text for name, row in first.items()})
    home = Home(tmp_path_factory.mktemp("home"))
    done = imported(folder, layout, home, create_items=True)
    assert all(1 <= line <= 8 for _, line, _ in done.refused)


def test_lists_in_lists_in_lists_are_refused(tmp_path: Path, home: Home) -> None:
    deep = '{"asin": "i", "categories": ' + "[" * 700 + "]" * 700 + "}"
    done = imported(write(tmp_path, p_DOT_jsonl=lines({"asin": "j"}, deep)), "amazon-reviews", home)
    assert [row[0] for row in done.rows["items"]][-1] == "j"
    assert {reason for _, _, reason in done.refused} <= {"value_is_nested", "malformed_row", "bad_attributes"}


@pytest.mark.parametrize(
    ("layout", "files", "lacks"),
    [
        ("movielens", {"ratings_DOT_csv": "user,movieId,rating,timestamp\n1,1,1,1\n"}, "userId"),
        ("lastfm-hetrec", {"user_artists_DOT_dat": "userID\tartist\tweight\n1\t1\t1\n"}, "artistID"),
    ],
)
def test_a_first_line_that_lacks_a_name(
    layout: str, files: dict[str, str], lacks: str, tmp_path: Path, home: Home
) -> None:
    with pytest.raises(UnreadableFileError, match=f"its first line names no {lacks}, but "):
        imported(write(tmp_path, **files), layout, home)


def test_recbole_without_the_names_that_it_needs(tmp_path: Path) -> None:
    write(tmp_path, x_DOT_inter="user:token\titem_id:token\n1\t2\n")
    with pytest.raises(UnreadableFileError, match="names no user_id:token, but user, item_id"):
        LAYOUTS["recbole"].find(tmp_path, None)
    write(tmp_path, x_DOT_inter="user_id:token\titem_id:token\n", x_DOT_net="a:token\tb:token\n")
    with pytest.raises(UnreadableFileError, match="names no source_id and target_id, but a, b"):
        LAYOUTS["recbole"].find(tmp_path, None)
